"""Images of more than 8 bits per value: one range of values for a whole data set becomes 0 to 255.

A range per image would make dim and bright images look alike and hide what intensity says. The range is
found once, from the training subset, is stored with the run and holds for every later image.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from polymask.data.decoding import check_finite, read_deep
from polymask.data.headers import NumberFormat
from polymask.data.reading import read_ahead
from polymask.errors import UserError

log = logging.getLogger(__name__)

Range = tuple[float, float]
EIGHT_BIT: Range = (0.0, 255.0)
"""Range of images of 8 bits, which are read as they are."""

_PERCENTILES = (0.1, 99.9)
_MOST_FILES, _MOST_VALUES = 100, 40_000  # files, and values of each file, that the percentiles are taken of


def parse_range(value: Sequence[float] | None) -> Range | None:
    """Return `data.intensity_range` as a pair of numbers, None when it is to be found.

    Raises:
        UserError: It is no pair of numbers, the lower one first.
    """
    if value is None:
        return None
    is_pair = isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value))
    if not is_pair or value[0] >= value[1]:
        raise UserError(
            f"data.intensity_range={value} is not valid; give [low, high], the values that become black and "
            "white, or null to find them in the training images."
        )
    return float(value[0]), float(value[1])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_depth(formats: Mapping[Path, NumberFormat]) -> bool:
    """Return whether the images of a data set have more than 8 bits per value.

    Raises:
        UserError: Some images have 8 bits and others more.
    """
    names = {path: _depth(stored) for path, stored in formats.items()}
    counts = Counter(names.values())
    if len(counts) > 1:
        first = {name: path for path, name in reversed(names.items())}
        listed = ", ".join(f"{count} with {name} (e.g. {first[name]})" for name, count in counts.items())
        raise UserError(
            f"the images differ in depth: {listed}. Convert them to one depth, or set data.intensity_range="
            "[low, high] if equal values mean equal intensities in all of them."
        )
    return any(stored.is_deep for stored in formats.values())


def _depth(stored: NumberFormat) -> str:
    return "floating-point numbers" if stored.is_float else f"{max(8, stored.bits)} bits per value"


def find_range(paths: Sequence[Path]) -> Range:
    """Return the 0.1 and the 99.9 percentile of all values of some images.

    Of at most 100 files, evenly spread over `paths`, and at most 40,000 values of each, evenly spread over
    the image; so fewer and smaller images are used whole.

    Args:
        paths: The training images.

    Raises:
        UserError: A file cannot be read, or all values are equal.
    """
    chosen = _spread(np.arange(len(paths)), _MOST_FILES)
    arrays = read_ahead(lambda index: _spread(read_deep(paths[index]).ravel(), _MOST_VALUES), chosen)
    values = np.concatenate([array.astype(np.float64) for array in arrays])
    low, high = np.percentile(values, _PERCENTILES)
    if low == high:  # almost all is background
        low, high = values.min(), values.max()
    if low == high:
        raise UserError(
            f"the training images hold only the value {low:g}, e.g. {paths[0]}; give images with contrast, "
            "or set data.intensity_range=[low, high]."
        )
    log.info(
        "intensity range %g to %g (percentiles %g and %g of %d training images) becomes 0 to 255",
        low, high, *_PERCENTILES, len(chosen),
    )  # fmt: skip
    return float(f"{low:.7g}"), float(f"{high:.7g}")  # short in files and tables


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many values, evenly spread."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def to_uint8(values: np.ndarray, intensity_range: Range, name: str) -> np.ndarray:
    """Map values linearly so that `intensity_range` becomes 0 to 255, rounded, and clip what lies outside.

    Images of 8 bits are returned as they are where the range is 0 to 255.

    Args:
        values: (H, W) or (H, W, C) of any number type.
        intensity_range: Values of black and white.
        name: What the values are, for messages.

    Returns:
        The same shape, uint8.

    Raises:
        UserError: Values are NaN or infinite, or the image is of another kind than the range: mapping it
            would lose the picture.
    """
    low, high = intensity_range
    if values.dtype == np.uint8 and intensity_range == EIGHT_BIT:
        return values
    check_finite(values, name)
    least, most = values.min(), values.max()
    is_outside = least != most and (most <= low or least >= high)
    is_other_depth = (values.dtype == np.uint8 and high > 255) or (
        intensity_range == EIGHT_BIT and (values.dtype.kind == "f" or most > high)
    )
    if is_outside or is_other_depth:
        raise UserError(
            f"{name} has the values {least:g} to {most:g} ({values.dtype}), but the model reads {low:g} to "
            f"{high:g}; convert it to the depth of the training images, or name the values of black and "
            "white: data.intensity_range=[low, high]."
        )
    return stretch(values, low, high)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values of any number type to uint8: `low` becomes 0, `high` 255, what lies outside is clipped."""
    if values.dtype == np.uint16:  # a table costs no copy in floating point
        return _table(low, high, 65536)[values]
    if values.dtype == np.uint8:
        return cv2.LUT(values, _table(low, high, 256))
    mapped = np.empty(values.shape, np.uint8)
    for row in range(len(values)):  # row by row, so that no copy in floating point is as large as the image
        mapped[row] = _scaled(values[row].astype(np.float64), low, high)
    return mapped


def _table(low: float, high: float, size: int) -> np.ndarray:
    return _scaled(np.arange(size, dtype=np.float64), low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
