"""Object masks as COCO run lengths: small, exact, and compared without decoding.

A run-length encoding (RLE) is `{"size": [height, width], "counts": bytes}`, column-major as in the COCO API
(Lin et al., "Microsoft COCO: Common objects in context", ECCV 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as codec

Rle = dict[str, Any]


def encode(mask: np.ndarray) -> Rle:
    """Return the RLE of a (H, W) mask; every value but 0 is inside."""
    return codec.encode(np.asfortranarray(mask != 0, dtype=np.uint8))


def decode(rle: Rle) -> np.ndarray:
    """Return the (H, W) bool mask of an RLE."""
    return codec.decode(rle).astype(bool)


def union(rles: Sequence[Rle], size: tuple[int, int]) -> np.ndarray:
    """Return the (height, width) bool mask of the pixels that lie in any of `rles`."""
    if not rles:
        return np.zeros(size, bool)
    return decode(codec.merge(list(rles), 0))


def area(rle: Rle) -> int:
    """Return the number of pixels inside."""
    return int(codec.area(rle))


def box(rle: Rle) -> tuple[float, float, float, float]:
    """Return the smallest box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; all 0 of an empty mask."""
    x, y, width, height = (float(value) for value in codec.toBbox(rle))
    return x, y, x + width, y + height


def iou(found: Sequence[Rle], true: Sequence[Rle], crowd: Sequence[bool]) -> np.ndarray:
    """Return the (len(found), len(true)) float64 intersection over union.

    Where `crowd` says that a true region is a crowd, the intersection is divided by the found area alone,
    as in the COCO API: a part of a crowd is as good as the whole.
    """
    if not found or not true:
        return np.zeros((len(found), len(true)))
    return np.asarray(codec.iou(list(found), list(true), [int(value) for value in crowd]))


def to_json(rle: Rle) -> Rle:
    """Return an RLE whose counts are text, as COCO files hold them."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def from_coco(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Return the RLE of a COCO segmentation: polygons, or run lengths compressed or not.

    Args:
        segmentation: A list of polygons [x0, y0, x1, y1, …], or {"size", "counts"}.
        size: (height, width) of the image.
    """
    height, width = size
    if isinstance(segmentation, list):
        return codec.merge(codec.frPyObjects(segmentation, height, width), 0)
    if isinstance(segmentation["counts"], list):
        return codec.frPyObjects(segmentation, height, width)
    counts = segmentation["counts"]
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
