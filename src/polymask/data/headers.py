"""What the header of an image file says, without decoding its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageMode

from polymask.errors import UserError

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)  # orientations of EXIF that swap width and height
_TIFF_BITS, _TIFF_CHANNELS, _TIFF_NUMBER_FORMAT = 258, 277, 339
_TIFF_FLOAT = 3
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type of the IHDR chunk


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
        pages: Pictures in the file; more than 1 only in TIFF.
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


def read_header(path: Path) -> Header | None:
    """Read the header of an image file.

    Returns:
        The header; None when only decoding can tell, as for formats of which Pillow reads less than OpenCV
        (TIFF with three channels of 16 bits).

    Raises:
        UserError: The file is missing or cannot be opened.
    """
    try:
        with Image.open(path) as image:
            return _header(image, path)
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; replace or remove it.") from error
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable.") from error
    except (OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError):
        return None


def _header(image: Image.Image, path: Path) -> Header:
    width, height = image.size
    orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1)) if _may_be_turned(image, path) else 1
    if orientation not in range(1, 9):
        orientation = 1
    if orientation in _QUARTER_TURNS:
        width, height = height, width
    channels, bits, is_float = _number_format(image, path)
    return Header(
        height=height,
        width=width,
        channels=channels,
        bits=bits,
        is_float=is_float,
        has_palette=image.mode == "P",
        orientation=orientation,
        # Phones write MPO: a JPEG with a second picture that no reader shows.
        pages=getattr(image, "n_frames", 1) if image.format == "TIFF" else 1,
        format=image.format or "",
    )


def _may_be_turned(image: Image.Image, path: Path) -> bool:
    """Return whether to ask Pillow for EXIF: of a PNG it decodes all pixels, in search of a chunk behind them."""
    return image.format != "PNG" or any(mark in path.read_bytes() for mark in _PNG_EXIF)


def _number_format(image: Image.Image, path: Path) -> tuple[int, int, bool]:
    """Return channels, bits per value and whether these are floating-point numbers."""
    if image.format == "PNG":  # Pillow names the mode that it would convert to: 8 bits of 16 in colour
        with path.open("rb") as file:
            start = file.read(26)
        return _PNG_CHANNELS[start[25]], start[24], False
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        bits, formats = tags.get(_TIFF_BITS, (1,)), tags.get(_TIFF_NUMBER_FORMAT, (1,))
        return int(tags.get(_TIFF_CHANNELS, 1)), _first(bits), _first(formats) == _TIFF_FLOAT
    values = np.dtype(ImageMode.getmode(image.mode).typestr)
    bits = 1 if image.mode == "1" else 8 * values.itemsize
    return len(image.getbands()), bits, values.kind == "f"


def _first(values: int | Sequence[int]) -> int:
    return int(values[0]) if isinstance(values, Sequence) else int(values)
