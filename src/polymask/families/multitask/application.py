"""Files of one predicted image: mask, overlay, outline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.images import write_image
from polymask.families.multitask.predictions import ImageResult
from polymask.reporting.canvas import draw_outlines, overlay_mask


class ImageMaskWriter:
    """Writes `masks/{name}.png`, and with `overlay` `overlays/{name}.jpg` and `outlines/{name}.jpg`.

    Args:
        folder: Folder of the results.
        class_names: Names of the classes.
        overlay: Write overlays and outlines.
    """

    folders = ("masks", "overlays", "outlines")

    def __init__(self, folder: Path, *, class_names: Sequence[str], overlay: bool) -> None:
        self.folder, self.overlay = folder, overlay
        probabilities = [f"probability_{name}" for name in class_names]
        self.columns = ("predicted_class", "lesion_pixels", "lesion_share", *probabilities)

    def write(self, name: Path, result: ImageResult, image: np.ndarray | None) -> dict[str, Any]:
        """Write the files of one image; return its row for `predictions.csv`."""
        row: dict[str, Any] = {}
        if result.class_probabilities is not None:
            row["predicted_class"] = result.predicted_class
            row |= {f"probability_{k}": f"{v:.6f}" for k, v in result.class_probabilities.items()}
        if result.mask is not None:
            lesion = int(np.count_nonzero(result.mask))
            row |= {"lesion_pixels": lesion, "lesion_share": f"{lesion / result.mask.size:.6f}"}
            write_image(self.folder / "masks" / f"{name}.png", mask_file_values(result))
            if self.overlay and image is not None:
                # One after the other, so that of a large image there is one drawn copy at a time.
                write_image(self.folder / "overlays" / f"{name}.jpg", overlay_mask(image, result.mask))
                outlined = draw_outlines(image, None, result.mask)
                write_image(self.folder / "outlines" / f"{name}.jpg", outlined)
        return row

    def finish(self) -> None:
        """Do nothing: each image has files of its own."""


def mask_file_values(result: ImageResult) -> np.ndarray:
    """Return the pixel values of a mask file: 0 and 255, or class numbers when there are several classes."""
    assert result.mask is not None
    return result.mask if result.multiclass else result.mask * np.uint8(255)
