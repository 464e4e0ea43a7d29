"""Words beside the objects of an image, where there is room for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from polymask.structures.crops import Crop

Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALES = (0.4, 1.2)  # below, letters run together
_SIDE_PER_SCALE = 2000  # pixels of the longest side that ask for letters of scale 1
_MARGIN = 2
_LUMINANCE = (0.299, 0.587, 0.114)
_MOST_HIDDEN = 0.2  # share of an object that labels may cover
_CROWDED = 0.15  # share of the image that the longest texts would take; beyond, the shortest are written


class Label(NamedTuple):
    """What to write beside one object.

    Attributes:
        crop: The object.
        colour: RGB of the object; the letters stand on it in black or white.
        texts: What may be written, the best first; the first that has room is. In a
            crowded image only the last is tried, so that as many objects as possible get one.
    """

    crop: Crop
    colour: Colour
    texts: Sequence[str]


def write_labels(image: np.ndarray, labels: Sequence[Label]) -> None:
    """Write labels into `image` (H, W, 3) uint8 RGB, one after the other, each where it hides least.

    A label covers no other label and little of any object. One without such a place is left out: a crowded
    image shows its objects rather than words.
    """
    scale = float(np.clip(max(image.shape[:2]) / _SIDE_PER_SCALE, *_SCALES))
    sizes = [_measure(label.texts[0], scale) for label in labels if label.texts]
    room = sum(height * width for height, width, _ in sizes) / (image.shape[0] * image.shape[1])
    page = _Page([label.crop for label in labels], image.shape[:2])
    for label in labels:
        for text in label.texts if room < _CROWDED else label.texts[-1:]:
            place = page.take(label.crop, _measure(text, scale)[:2])
            if place is not None:
                image[place] = _text_picture(text, scale, label.colour)
                break


class _Page:
    """What of an image is taken by labels, and how much of each object they hide."""

    def __init__(self, crops: Sequence[Crop], size: tuple[int, int]) -> None:
        self._taken = np.zeros(size, bool)
        self._owner = np.zeros(size, np.int32)  # number of the object at each pixel, from 1
        for number, crop in enumerate(crops, start=1):
            self._owner[crop.window][crop.mask] = number
        self._areas = np.array([1, *(max(np.count_nonzero(crop.mask), 1) for crop in crops)])
        self._hidden = np.zeros(len(crops) + 1)  # share of each object; entry 0, the background, stays 0

    def take(self, crop: Crop, size: tuple[int, int]) -> tuple[slice, slice] | None:
        """Take the place for a label near an object that hides least; None when each hides too much."""
        height, width = size
        best, least = None, _MOST_HIDDEN
        for y, x in _corners(crop, size):
            place = slice(y, y + height), slice(x, x + width)
            inside = y >= 0 and x >= 0 and self._taken[place].shape == size
            if inside and not self._taken[place].any():
                shares = self._shares(place)
                hidden = (self._hidden + shares)[shares > 0].max(initial=0)
                if hidden < least:
                    best, least = place, hidden
        if best is not None:
            self._taken[best] = True
            self._hidden += self._shares(best)
        return best

    def _shares(self, place: tuple[slice, slice]) -> np.ndarray:
        counts = np.bincount(self._owner[place].ravel(), minlength=len(self._areas))
        counts[0] = 0
        return counts / self._areas


def _corners(crop: Crop, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield (y, x) of the first pixel of labels around the box of an object and inside of it."""
    height, width = size
    rows, columns = crop.window
    y0, y1, x0, x1 = rows.start, rows.stop, columns.start, columns.stop
    middle_x, middle_y = (x0 + x1 - width) // 2, (y0 + y1 - height) // 2
    for x in (x0, x1 - width, middle_x):
        yield y0 - height - 1, x
        yield y1 + 1, x
    yield middle_y, x1 + 1
    yield middle_y, x0 - width - 1
    for y in (y0 + 1, y1 - height - 1, middle_y):
        for x in (x0 + 1, x1 - width - 1, middle_x):
            yield y, x


def _measure(text: str, scale: float) -> tuple[int, int, int]:
    """Return (height, width) of the picture of a text, and the pixels below its base line."""
    (width, above), below = cv2.getTextSize(text, _FONT, scale, _thickness(scale))
    return above + below + _MARGIN, width + 2 * _MARGIN, below


def _text_picture(text: str, scale: float, colour: Colour) -> np.ndarray:
    height, width, below = _measure(text, scale)
    picture = np.full((height, width, 3), colour, np.uint8)
    letters = (0, 0, 0) if np.dot(colour, _LUMINANCE) > 110 else (255, 255, 255)
    foot = (_MARGIN, height - below)
    return cv2.putText(picture, text, foot, _FONT, scale, letters, _thickness(scale), cv2.LINE_AA)


def _thickness(scale: float) -> int:
    return 1 if scale < 0.8 else 2
