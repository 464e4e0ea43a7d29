"""Objects in several pieces: when a number of a label map means not one object but many.

A mask of foreground and background, or a map of classes, looks like a label map whose few numbers stand for
many objects each. Read as one, it would give wrong objects without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from polymask.data.reading import read_ahead
from polymask.data.records import Record
from polymask.errors import UserError
from polymask.structures.layers import MOST_NUMBERS, Layers

MOST_LOOKED_AT = 64
"""Label maps of which pieces and objects are counted: enough for what concerns a whole set, and quick."""

_SUSPICIOUS_SHARE = 0.1  # of the label maps; single objects in two pieces, as behind a post, are rarer
_SPECK = 0.1  # a piece smaller than this share of the largest one of its object is dirt


class Look(NamedTuple):
    """What one image holds: numbers that stand for an object each, connected pieces, share of foreground."""

    numbers: int
    pieces: int
    foreground: float

    @property
    def is_suspicious(self) -> bool:
        """Tell whether a number has two pieces or more on average."""
        return self.pieces >= 2 * max(1, self.numbers)


def look_at(records: Sequence[Record]) -> list[tuple[Record, Look]]:
    """Decode up to `MOST_LOOKED_AT` of the records, always the same random ones, and count."""
    chosen = draw_sample(records)
    return list(read_ahead(lambda record: (record, _look(record, record.content_key())), chosen))


def draw_sample(records: Sequence[Record]) -> list[Record]:
    """Return up to `MOST_LOOKED_AT` of the records, always the same random ones, in their order."""
    order = np.random.default_rng(0).permutation(len(records))[:MOST_LOOKED_AT]
    return [records[index] for index in sorted(order.tolist())]


@lru_cache(maxsize=2 * MOST_LOOKED_AT)
def _look(record: Record, content_key: str) -> Look:
    # Remembered, because a start asks twice: is this a label map, and how many objects are there.
    return count(record.read_objects())


def count(objects: Layers) -> Look:
    """Count objects, their pieces (8-connected and without specks of dirt) and their pixels."""
    areas = [stats[1:, cv2.CC_STAT_AREA] for _, _, stats in _pieces_of(objects)]
    pieces = sum(int((own >= _SPECK * own.max()).sum()) for own in areas)
    return Look(len(areas), pieces, float((objects.union_mask() == 1).mean()))


def check_pieces(records: Sequence[Record], *, remedy: str) -> None:
    """Look at some records and stop where numbers seem to stand for many objects.

    Raises:
        UserError: In too many of them a number is found in separate pieces.
    """
    looks = [(record, look) for record, look in look_at(records) if look.numbers]
    odd = [(record, look) for record, look in looks if look.is_suspicious]
    if odd and len(odd) >= _SUSPICIOUS_SHARE * len(looks):
        record, look = odd[0]
        source = record.id if record.truth is None else record.truth.path
        numbers = "1 number" if look.numbers == 1 else f"{look.numbers} numbers"
        raise UserError(
            f"{len(odd)} of {len(looks)} label maps that were looked at have numbers in many separate "
            f"pieces, e.g. {source} {numbers} in {look.pieces} pieces, but a number stands for one "
            f"object. {remedy}"
        )


def separate(objects: Layers) -> Layers:
    """Return the 8-connected pieces of all objects as objects of their own.

    Raises:
        UserError: There are more pieces than numbers.
    """
    layers = np.zeros_like(objects.layers)
    last = [0] * layers.shape[-1]
    layer: list[int] = []
    number: list[int] = []
    source: list[int] = []
    for index, pieces, stats in _pieces_of(objects):
        where, num_pieces = int(objects.layer[index]), len(stats) - 1
        if last[where] + num_pieces > MOST_NUMBERS:
            raise UserError(
                f"a label map has more than {MOST_NUMBERS} pieces, the most allowed; cut it into tiles, or "
                "give a clean one."
            )
        window = pieces.window
        inside = pieces.numbers > 0
        layers[..., where][window][inside] = pieces.numbers[inside] + last[where]
        number += range(last[where] + 1, last[where] + num_pieces + 1)
        layer += [where] * num_pieces
        source += [index] * num_pieces
        last[where] += num_pieces
    return Layers(
        layers=layers,
        layer=np.array(layer, np.int64),
        number=np.array(number, np.int64),
        labels=objects.labels[source],
        crowd=objects.crowd[source],
    )


class _Pieces(NamedTuple):
    """The numbered pieces of an object, (h, w) from 1, in the window that it spans."""

    window: tuple[slice, slice]
    numbers: np.ndarray


def _pieces_of(objects: Layers) -> Iterator[tuple[int, _Pieces, np.ndarray]]:
    """Yield index, pieces and OpenCV's statistics (row 0 is the background) of each object that is seen."""
    for index, window in enumerate(objects.windows()):
        if window is not None:
            layer = objects.layers[..., objects.layer[index]][window]
            mask = (layer == objects.number[index]).astype(np.uint8)
            _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            yield index, _Pieces(window, numbers), stats
