"""polymask: multi-task training for images that need both a class and a mask.

Importing the package loads neither torch nor mlflow; `polymask.load` does when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polymask.inference.predictor import Predictor

__version__ = "0.1.0"


def load(run_or_path: str, *, device: str = "auto", precision: str = "auto", tta: bool = False) -> Predictor:
    """Load a trained model for use from Python.

    Args:
        run_or_path: Name of a run (its best checkpoint in `models/checkpoints` is taken), or a path
            to a checkpoint file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        tta: Average the predictions over the four flips of each image.

    Returns:
        An object whose `predict(images)` takes paths or uint8 RGB arrays (H, W, 3) and returns one
        prediction per image, with the mask at the image's own size.

    Raises:
        polymask.errors.UserError: There is no such checkpoint, or it cannot be read.
    """
    from polymask.inference.predictor import Predictor

    return Predictor.from_checkpoint(run_or_path, device=device, precision=precision, tta=tta)
