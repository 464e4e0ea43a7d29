"""What the header of an image file says, without decoding its pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageMode

from polymask.data.tiff import ReadAt, is_tiff, read_tiff
from polymask.errors import UserError

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)  # orientations of EXIF that swap width and height
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type of the IHDR chunk
_PNG_START = b"\x89PNG\r\n\x1a\n"
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_LIMIT_LOCK = Lock()
_TAIL = 64  # bytes in which to look for an end: some programs append to a whole file
_SINGLE_PAGE = ("JPEG", "MPO", "BMP")  # phones write MPO: a JPEG with a second picture that no reader shows


@dataclass(frozen=True, kw_only=True)
class Header:
    """Shape and number format of an image file.

    Attributes:
        height: Rows in pixels, with the EXIF orientation applied.
        width: Columns in pixels, with the EXIF orientation applied.
        channels: Values per pixel as stored; 1 for a palette.
        bits: Bits per value.
        is_float: Whether values are floating-point numbers.
        has_palette: Whether values are indices into a table of colours.
        orientation: EXIF orientation, 1 (upright) to 8.
        pages: Pictures in the file; thumbnails are none.
        format: Name of the file format, such as `JPEG`.
    """

    height: int
    width: int
    channels: int
    bits: int
    is_float: bool
    has_palette: bool
    orientation: int
    pages: int
    format: str


@dataclass(frozen=True)
class NumberFormat:
    """How an image file stores its values, the only thing that `number_format` looks for.

    Attributes:
        bits: Bits per value, 8 where the format has nothing else.
        is_float: Whether values are floating-point numbers.
        pages: Pictures in the file.
    """

    bits: int = 8
    is_float: bool = False
    pages: int = 1

    @property
    def is_deep(self) -> bool:
        """Return whether values reach beyond 0 to 255."""
        return self.bits > 8


def read_header(path: Path) -> Header | None:
    """Read the header of an image file.

    Returns:
        The header; None when it is damaged, so that only decoding can tell.

    Raises:
        UserError: The file is missing or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(26)
            if is_tiff(start):
                file.seek(0)
                return _tiff_header(lambda offset, size: file.read(size) if file.seek(offset) >= 0 else b"")
            file.seek(0)
            return _header(open_image(file), path, start)
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; replace or remove it.") from error
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable.") from error
    except (OSError, ValueError, SyntaxError, KeyError, OverflowError):
        return None


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image with Pillow, however many pixels it has.

    Pillow warns above 89 megapixels and refuses twice as many, which protects servers from files of
    strangers; a scanned slide is larger, and only its header is read here.
    """
    with _LIMIT_LOCK:  # the limit is one of the whole process
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_whole(path: Path, header: Header) -> bool | None:
    """Return whether a file ends as its format demands: one that was cut off has an intact header.

    None where the format has no end by which to tell.
    """
    end = _ENDS.get(header.format)
    if end is None:
        return None
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        return end in file.read()


def number_format(read_at: ReadAt) -> NumberFormat:
    """Return how a file stores its values, from a few bytes of it; see `tiff.ReadAt`."""
    start = read_at(0, 26)
    if start.startswith(_PNG_START) and len(start) == 26:
        return NumberFormat(bits=start[24])
    tiff = read_tiff(read_at) if is_tiff(start) else None
    return NumberFormat() if tiff is None else NumberFormat(tiff.bits, tiff.is_float, tiff.pages)


def _tiff_header(read_at: ReadAt) -> Header | None:
    tiff = read_tiff(read_at)
    if tiff is None:
        return None
    height, width = _upright(tiff.height, tiff.width, tiff.orientation)
    return Header(
        height=height,
        width=width,
        channels=tiff.channels,
        bits=tiff.bits,
        is_float=tiff.is_float,
        has_palette=tiff.has_palette,
        orientation=tiff.orientation,
        pages=tiff.pages,
        format="TIFF",
    )


def _header(image: Image.Image, path: Path, start: bytes) -> Header:
    width, height = image.size
    orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1)) if _may_be_turned(image, path) else 1
    if orientation not in range(1, 9):
        orientation = 1
    height, width = _upright(height, width, orientation)
    channels, bits = _channels_and_bits(image, start)
    return Header(
        height=height,
        width=width,
        channels=channels,
        bits=bits,
        is_float=False,
        has_palette=image.mode == "P",
        orientation=orientation,
        pages=1 if image.format in _SINGLE_PAGE else getattr(image, "n_frames", 1),
        format=image.format or "",
    )


def _may_be_turned(image: Image.Image, path: Path) -> bool:
    """Return whether to ask Pillow for EXIF: to find it in a PNG it decodes all pixels."""
    return image.format != "PNG" or any(mark in path.read_bytes() for mark in _PNG_EXIF)


def _upright(height: int, width: int, orientation: int) -> tuple[int, int]:
    return (width, height) if orientation in _QUARTER_TURNS else (height, width)


def _channels_and_bits(image: Image.Image, start: bytes) -> tuple[int, int]:
    if image.format == "PNG":  # Pillow names the mode that it would convert to: 8 bits of 16 in colour
        return _PNG_CHANNELS[start[25]], start[24]
    bits = 1 if image.mode == "1" else 8 * np.dtype(ImageMode.getmode(image.mode).typestr).itemsize
    return len(image.getbands()), bits
