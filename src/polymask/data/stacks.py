"""Volumes as TIFF files with one page per slice, read page by page: a few slices are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from polymask.data.decoding import decode_bytes, unreadable
from polymask.data.headers import Header, read_header
from polymask.data.intensity import Range, stretch
from polymask.data.tiff import ReadAt, page_offsets
from polymask.data.tiff_pages import single_page
from polymask.errors import UserError, number

STACK_SUFFIXES = (".tif", ".tiff")
PERCENTILES: Range = (0.1, 99.9)
"""Of all values of a volume: what becomes black and white."""

_NARROW = 3  # how much smaller than all others a side must be to be taken for the axis of slices


@dataclass(frozen=True)
class Stack:
    """A volume in a TIFF file; nothing is decoded before it is asked for.

    Attributes:
        path: The file.
        shape: (Z, H, W): pages, rows, columns.
        bits: Bits per value, 8 or 16.
        what: What it is to the user, such as `volume`; for messages.
    """

    path: Path
    shape: tuple[int, int, int]
    bits: int
    what: str = "volume"

    def read(self, z: int) -> np.ndarray:
        """Return slice z, (H, W) uint8 or uint16.

        Raises:
            UserError: The page is damaged, differs from the first in size or type, or has negative values.
        """
        with self.path.open("rb") as file:
            return self._decode(file, self._offsets(file)[z], z)

    def pages(self) -> Iterator[np.ndarray]:
        """Yield all slices in their order, see `read`."""
        with self.path.open("rb") as file:
            for z, offset in enumerate(self._offsets(file)):
                yield self._decode(file, offset, z)

    def window(self, percentiles: Range = PERCENTILES) -> Range:
        """Return the values that shall become black and white: percentiles of all values of the volume.

        They are values that occur (the inverse of the empirical distribution function), counted page by
        page. Where both are one value, as in a nearly empty volume, the least and the largest are taken.

        Args:
            percentiles: From 0 to 100.

        Returns:
            Two numbers, the second one larger.
        """
        counts = np.zeros(2**self.bits, np.int64)
        for page in self.pages():
            counts += np.bincount(page.ravel(), minlength=len(counts))
        below = counts.cumsum()
        low, high = (int(below.searchsorted(max(p / 100 * below[-1], 1))) for p in percentiles)
        if low == high:
            low, high = np.flatnonzero(counts)[[0, -1]].tolist()
        return float(low), float(max(high, low + 1))

    def check_whole(self) -> None:
        """Raise UserError when the file ends before the directory of its last page."""
        with self.path.open("rb") as file:
            self._offsets(file)

    def _offsets(self, file: IO[bytes]) -> list[int]:
        offsets = page_offsets(_reader(file))
        if offsets is None:
            raise unreadable(self.path, self.what, "the file ends before its last page")
        if len(offsets) != self.shape[0]:  # changed since it was opened
            raise unreadable(self.path, self.what, f"{len(offsets)} of {self.shape[0]} pages")
        return offsets

    def _decode(self, file: IO[bytes], offset: int, z: int) -> np.ndarray:
        data = single_page(_reader(file), offset)
        if data is None:
            raise unreadable(self.path, self.what, f"page {z} is not whole")
        page, damage = decode_bytes(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if page is None:
            raise unreadable(self.path, self.what, f"page {z}: {damage or 'cannot be decoded'}")
        return self._checked(page, z)

    def _checked(self, page: np.ndarray, z: int) -> np.ndarray:
        if page.shape != self.shape[1:] or page.dtype.itemsize * 8 != self.bits:
            raise UserError(
                f"{self.what} {self.path} has pages of different kinds: page {z} is "
                f"{' x '.join(map(str, page.shape))} {page.dtype}, the first {self.shape[1]} x "
                f"{self.shape[2]} of {self.bits} bits. Save all slices alike."
            )
        if page.dtype.kind == "i" and page.min() < 0:
            raise UserError(
                f"{self.what} {self.path} has the negative value {page.min()} in page {z}; save it with "
                "values from 0 on (uint8 or uint16)."
            )
        return page.view(f"uint{self.bits}")


def _reader(file: IO[bytes]) -> ReadAt:
    def read_at(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    return read_at


def open_stack(path: Path, *, what: str = "volume") -> Stack:
    """Look at the header of a volume.

    Args:
        path: A TIFF file.
        what: What it is to the user; for messages.

    Raises:
        UserError: The file is missing, damaged or cut off, no TIFF, one 2-D image, has colours, numbers that
            are not whole or more than 16 bits, or its pages are not the slices.
    """
    header = _header(path, what)
    if header.pages == 1 and header.channels > 4:
        raise UserError(
            f"{what} {path} is one page of {header.channels} channels: its slices lie along the last axis. "
            "Save it with one page per slice (axes z, y, x)."
        )
    _check_values(header, path, what)
    if header.pages == 1:
        raise UserError(
            f"{what} {path} is a 2-D image of {header.height} x {header.width} pixels, and a volume is "
            "wanted: a TIFF file with one page per slice."
        )
    shape = header.pages, header.height, header.width
    side = min(shape[1:])
    if side * _NARROW < min(header.pages, max(shape[1:])):
        raise UserError(
            f"{what} {path} has {header.pages} pages of {header.height} x {header.width} pixels, as if its "
            "first axis were not that of the slices. Save it with one page per slice (axes z, y, x), or pad "
            "slices that are so narrow."
        )
    stack = Stack(path, shape, header.bits, what)
    stack.check_whole()
    return stack


def read_label_slice(path: Path, what: str = "label map") -> np.ndarray:
    """Return the (H, W) uint8 or uint16 label map of one slice.

    Raises:
        UserError: See `open_stack`; or the file has several pages.
    """
    return label_slice(path, what).read(0)


def label_slice(path: Path, what: str = "label map") -> Stack:
    """Look at the header of the label map of one slice: a stack of one page.

    Raises:
        UserError: See `open_stack`; or the file has several pages.
    """
    header = _header(path, what)
    _check_values(header, path, what)
    if header.pages > 1:
        raise UserError(
            f"{what} {path} has {header.pages} pages, and its name says that it is one slice; rename it to "
            "that of a whole volume, or keep the one page."
        )
    return Stack(path, (1, header.height, header.width), header.bits, what)


def windowed(page: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return (H, W) uint8: `low` becomes 0 and `high` 255, rounded, the rest is clipped."""
    return stretch(page, low, high)


def check_percentiles(key: str, value: object) -> Range:
    """Return two percentiles, the lower one first.

    Raises:
        UserError: They are something else.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{key}={value} is not valid; give two percentiles of the values: [0.1, 99.9].")
    low, high = (number(key, part, least=0, most=100, what="percentiles") for part in value)
    if low >= high:
        raise UserError(f"{key}={list(value)} is not valid; give the lower percentile first: [0.1, 99.9].")
    return float(low), float(high)


def _header(path: Path, what: str) -> Header:
    header = read_header(path)
    if header is None:
        raise unreadable(path, what)
    if header.format != "TIFF":
        raise UserError(f"{what} {path} is no TIFF file but {header.format}; save it as TIFF.")
    return header


def _check_values(header: Header, path: Path, what: str) -> None:
    if header.channels > 1 or header.has_palette:
        kind = "a palette of colours" if header.has_palette else f"{header.channels} channels per pixel"
        raise UserError(f"{what} {path} has {kind}; save it in greys, one value per voxel.")
    if header.is_float:
        raise UserError(
            f"{what} {path} has floating-point numbers; save it with whole numbers of 8 or 16 bits (uint16)."
        )
    if header.bits not in (8, 16):
        raise UserError(
            f"{what} {path} has {header.bits} bits per value, and 8 or 16 are read; save it as uint16 "
            "(values up to 65535)."
        )
