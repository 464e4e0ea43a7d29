"""Volumes of numbers as TIFF files, one slice in memory at a time.

OpenCV and Pillow write a stack only when they are given all of its pages.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from polymask.utils.files import write_atomically

_HEADER = struct.Struct("<2sHI")  # byte order, 42, place of the first directory
_ENTRY = struct.Struct("<HHII")  # tag, type, number of values, value
_SHORT, _LONG = 3, 4  # types: 16 and 32 bits
_DEFLATE = 8


def write_pages(path: Path, pages: Iterable[np.ndarray]) -> None:
    """Write slices as the pages of one TIFF of 16 bits, deflated without loss; atomically.

    Args:
        path: The file.
        pages: At least one (H, W) uint16; each is forgotten before the next one is asked for.
    """
    write_atomically(path, lambda file: _write(file, pages), sync=False)


def _write(file: IO[bytes], pages: Iterable[np.ndarray]) -> None:
    """Write a TIFF from front to back: of each page its pixels, then its directory (TIFF 6.0, section 2).

    A directory says where the next one lies, which follows the pixels of the next page: so pages are
    compressed one ahead.
    """
    place = _HEADER.size
    strips = chain(_strips(pages), [None])
    strip = next(strips)
    assert strip is not None, "a volume has slices"
    file.write(_HEADER.pack(b"II", 42, place + len(strip[1])))
    while strip is not None:
        size, data = strip
        strip = next(strips)
        directory = _directory(size, place, len(data))
        end = place + len(data) + len(directory) + 4
        file.write(data + directory + struct.pack("<I", 0 if strip is None else end + len(strip[1])))
        place = end


def _strips(pages: Iterable[np.ndarray]) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield size and deflated pixels of each page; of even length, as directories begin at even places."""
    for page in pages:
        height, width = page.shape
        data = zlib.compress(np.ascontiguousarray(page, "<u2").data)
        yield (height, width), data + bytes(len(data) % 2)


def _directory(size: tuple[int, int], place: int, length: int) -> bytes:
    """Return the directory of a page of one strip, without the place of the next directory."""
    height, width = size
    entries = (
        (256, _LONG, width),
        (257, _LONG, height),
        (258, _SHORT, 16),  # bits per pixel
        (259, _SHORT, _DEFLATE),
        (262, _SHORT, 1),  # 0 is black
        (273, _LONG, place),
        (277, _SHORT, 1),  # one value per pixel
        (278, _LONG, height),  # rows in the strip
        (279, _LONG, length),
    )
    packed = b"".join(_ENTRY.pack(tag, kind, 1, value) for tag, kind, value in entries)
    return struct.pack("<H", len(entries)) + packed
