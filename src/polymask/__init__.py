"""polymask: multi-task training for images that need both a class and a mask.

Importing the package loads neither torch nor mlflow; `load` and `predict_mask` do when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from polymask.inference.predictor import Predictor

__version__ = "0.1.0"

FINAL_SEGMENTER = "models/final_lesion_segmenter.pth"
"""The checkpoint that `predict_mask` takes where nobody names a run, if it is there."""


def load(
    run_or_path: str | Sequence[str], *, device: str = "auto", precision: str = "auto", **options: Any
) -> Predictor:
    """Load a trained model for use from Python.

    Args:
        run_or_path: Name of a run (its best checkpoint in `models/checkpoints` is taken), or a path
            to a checkpoint file; or several of them, or a pattern such as `study_*`: their ensemble.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        **options: What else `config/infer.yaml` has for models of this kind, by the last part of the key:
            `tta`: average the predictions over the four flips of each image; `explain`: also return where the
            class was seen, as `explanation`; `intensity_range`: values of these images that become black and
            white; `pixel_size`: micrometres per pixel;
            `attribute_table`: what is known of the persons, for models with metadata: a CSV, values by file
            name or those of all, see docs/subgroups.md; `score_threshold`: least score of objects that
            count; `voxel_size` and the keys of `task.linking` for volumes. None: as in training.

    Returns:
        An object whose `predict(cases)` takes paths, uint8 RGB arrays (H, W, 3), or (Z, H, W) where volumes
        are cases, and returns one prediction per case, with the mask at the case's own size; of a single case
        its prediction.

    Raises:
        polymask.errors.UserError: There is no such checkpoint, it cannot be read, an option is of no use to
            it, or several predict different things.
    """
    from polymask.inference.predictor import Predictor

    return Predictor.from_checkpoint(run_or_path, options=options, device=device, precision=precision)


def predict_mask(
    image: str | Path | np.ndarray,
    output: str | Path | None = None,
    *,
    run: str | Path | None = None,
    overlay: str | Path | None = None,
    smoothing: float = 2.0,
    device: str = "auto",
) -> np.ndarray:
    """Predict the one mask that matters most in an image.

    Of a model of single objects that is the object with the highest score, of all others the foreground. Its
    outline is smoothed, its largest piece kept and its holes filled, see
    `polymask.structures.smoothing.smooth_mask`. A model is loaded once for all images in a row.

    Args:
        image: A file, or an array (H, W, 3) uint8 RGB.
        output: File for the mask, 0 and 255; PNG, TIFF or BMP. None to write none.
        run: Name of a run or path of a checkpoint. None for `models/final_lesion_segmenter.pth`, and where
            that is not there for the newest run.
        overlay: File for the mask on the image. None to write none.
        smoothing: Strength; 0 leaves the mask as the model predicts it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        (H, W) bool at the image's own size; all False, and a line in the log, when nothing is found.

    Raises:
        polymask.errors.UserError: The image cannot be read, there is no such model, or it predicts no masks.
    """
    from polymask.inference.single import predict_mask as predict
    from polymask.utils.paths import resolve

    if run is None and resolve(FINAL_SEGMENTER).is_file():
        run = FINAL_SEGMENTER
    return predict(image, output, run=run, overlay=overlay, smoothing=smoothing, device=device)
