"""One image, one mask."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import numpy as np

from polymask.data.images import write_image
from polymask.errors import UserError, number
from polymask.families.images import ImageApplication, read_pixels
from polymask.inference.members import find_checkpoints
from polymask.inference.predictor import Predictor
from polymask.reporting.canvas import overlay_mask
from polymask.structures.smoothing import smooth_mask
from polymask.training.checkpoint import CheckpointFolder
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


def predict_mask(
    image: str | Path | np.ndarray,
    output: str | Path | None = None,
    *,
    run: str | Path | None = None,
    overlay: str | Path | None = None,
    smoothing: float = 2.0,
    device: str = "auto",
) -> np.ndarray:
    """See `polymask.predict_mask`."""
    number("smoothing", smoothing, least=0)
    _check_outputs(output, overlay)
    predictor = _predictor(run, device)
    application = predictor.application
    if not isinstance(application, ImageApplication):
        raise UserError(f"{predictor.run_name} predicts no masks of images; take another run.")
    found = application.main_mask(predictor.predict([image])[0])
    mask = smooth_mask(found.mask, smoothing) if smoothing else found.mask
    name = "the image" if isinstance(image, np.ndarray) else str(image)
    share = 100 * np.count_nonzero(mask) / mask.size
    log.info("%s: %s", name, f"{found.what}, {share:.1f} % of the image" if found.what else "nothing found")
    if output is not None:
        write_image(Path(output), mask * np.uint8(255))
    if overlay is not None:
        original = read_pixels(image, application.intensity_range)
        write_image(Path(overlay), overlay_mask(original, mask.astype(np.uint8)))
    return mask


def _check_outputs(output: str | Path | None, overlay: str | Path | None) -> None:
    """Raise UserError for a name under which no such file can be written, before anything is computed."""
    if output is not None and Path(output).suffix.lower() not in _MASK_SUFFIXES:
        raise UserError(
            f"output={output} cannot hold a mask exactly; let it end in {', '.join(_MASK_SUFFIXES)}."
        )
    if overlay is not None and Path(overlay).suffix.lower() not in (*_MASK_SUFFIXES, ".jpg", ".jpeg"):
        raise UserError(f"overlay={overlay} is no name of a picture; let it end in .jpg or .png.")


def _predictor(run: str | Path | None, device: str) -> Predictor:
    """Return the predictor of a checkpoint, loaded once for all images in a row."""
    (path, *others) = find_checkpoints(run, CheckpointFolder(resolve("models/checkpoints")))
    if others:
        raise UserError(
            f"run={run} names {1 + len(others)} runs, and this takes one; use polymask.load for all."
        )
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _loaded(path, changed, device)


@lru_cache(maxsize=1)
def _loaded(path: Path, changed: int, device: str) -> Predictor:
    return Predictor.from_checkpoint(path, device=device)
