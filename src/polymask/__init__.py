"""polymask: multi-task training for images that need both a class and a mask.

Importing the package loads neither torch nor mlflow; `polymask.load` does when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymask.inference.predictor import Predictor

__version__ = "0.1.0"


def load(run_or_path: str, *, device: str = "auto", precision: str = "auto", **options: Any) -> Predictor:
    """Load a trained model for use from Python.

    Args:
        run_or_path: Name of a run (its best checkpoint in `models/checkpoints` is taken), or a path
            to a checkpoint file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        **options: What else `config/infer.yaml` has for models of this kind, by the last part of the key:
            `tta`: average the predictions over the four flips of each image; `intensity_range`: values of
            these images that become black and white; `pixel_size`: micrometres per pixel;
            `score_threshold`: least score of objects that count. None: as in training.

    Returns:
        An object whose `predict(images)` takes paths or uint8 RGB arrays (H, W, 3) and returns one
        prediction per image, with the mask at the image's own size.

    Raises:
        polymask.errors.UserError: There is no such checkpoint, it cannot be read, or an option is of no use
            to it.
    """
    from polymask.inference.predictor import Predictor

    return Predictor.from_checkpoint(run_or_path, options=options, device=device, precision=precision)
