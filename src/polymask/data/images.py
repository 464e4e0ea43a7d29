"""Decoding of images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from polymask.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
IGNORE = 255
"""Value of mask pixels that no loss and no metric counts."""


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file.

    Args:
        path: Any format that OpenCV reads; grey and 16-bit images are converted, EXIF rotation applied.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: The file is missing or is no readable image.
    """
    image = _decode(path, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UserError(
            f"cannot read image {path}: the file is missing, empty or damaged; replace or remove it."
        )
    return image


def read_binary_mask(path: str | Path) -> np.ndarray:
    """Decode a lesion mask.

    Pixels above half of the file's range are lesion, so 0/255 PNGs, 0/1 label images, 16-bit images and
    JPEG masks with their blurred edges all give the mask that was meant.

    Returns:
        (H, W) uint8 with 0 = background, 1 = lesion.

    Raises:
        UserError: The file is missing or is no readable image.
    """
    # Unchanged, because greyscale reading would rescale 16-bit and repaint palette masks.
    mask = _decode(path, cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise UserError(
            f"cannot read mask {path}: the file is missing, empty or damaged; replace or remove it."
        )
    if mask.ndim == 3:  # colour channels repeat the mask, a fourth one is opacity
        mask = mask[..., :3].max(axis=-1)
    full = 1 if mask.max() <= 1 else (65535 if mask.dtype == np.uint16 and mask.max() > 255 else 255)
    return (mask > full / 2).astype(np.uint8)


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize to `size` = (height, width): area averaging when shrinking, linear when growing."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinking = image.shape[0] * image.shape[1] > height * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize a label mask to `size` = (height, width) without inventing labels (exact nearest neighbour)."""
    height, width = size
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _decode(path: str | Path, flags: int) -> np.ndarray | None:
    # Through a buffer: cv2.imread fails on non-ASCII names on Windows and prints its own warnings.
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    try:
        return cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # a damaged header may claim a size that OpenCV refuses
        return None
