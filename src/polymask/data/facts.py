"""What a look at a file found, in plain numbers."""

from __future__ import annotations

from typing import NamedTuple


class ImageFacts(NamedTuple):
    """What an image file is, without its pixels; height and width are those of the upright image."""

    height: int
    width: int
    bits: int
    orientation: int
    is_float: bool = False


class MaskFacts(NamedTuple):
    """What the values of a mask file are.

    Attributes:
        height: Rows of the upright mask.
        width: Columns of the upright mask.
        bits: Bits per value.
        orientation: EXIF orientation, 1 (upright) to 8.
        lossy: Whether the format changes values (JPEG).
        counts: [value, pixels] pairs of the grey or the palette index; of colours the largest channel. More
            than 1024 different values are rounded down to multiples of 257.
        colours: [0xRRGGBB, pixels] pairs, the most frequent ones; empty when all channels are equal.
        alpha: [value, pixels] pairs of the alpha channel, None when there is none.
        level_pixels: Pixels of middle grey amid others like them: not the fringe of an edge.
    """

    height: int
    width: int
    bits: int
    orientation: int
    lossy: bool
    counts: list[list[int]]
    colours: list[list[int]]
    alpha: list[list[int]] | None
    level_pixels: int


class Foreground(NamedTuple):
    """Pixels of a mask that are foreground, and all that count (without ignored ones)."""

    pixels: int
    total: int
