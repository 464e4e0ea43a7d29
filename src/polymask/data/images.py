"""Reading and writing of images and masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from polymask.data.decoded_once import once
from polymask.data.decoding import (
    check_pages,
    decode_bytes,
    deep_values,
    read_bytes,
    reader_of,
    unreadable,
)
from polymask.data.headers import number_format
from polymask.data.intensity import EIGHT_BIT, Range, to_uint8
from polymask.errors import UserError
from polymask.structures.masks import IGNORE
from polymask.utils.files import write_atomically
from polymask.utils.names import check_file_names
from polymask.utils.text import same_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
FITS = ("stretch", "letterbox")
"""How an image becomes as high and wide as the network takes it: without its aspect, or with padding."""


def read_image(path: str | Path, intensity_range: Range = EIGHT_BIT) -> np.ndarray:
    """Decode an image file.

    The one rule for every image of every family: grey is repeated in all channels, a palette gives its
    colours, CMYK is converted, opacity is left out, and the picture is turned upright as its EXIF
    orientation says.

    Args:
        path: JPEG, PNG, BMP or TIFF.
        intensity_range: Values that become 0 and 255, see `intensity.to_uint8`; with the default, images of
            8 bits are read as they are and deeper ones are refused.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: The file is missing or damaged, has several pages, or its values do not fit the range.
    """
    values, is_image = once(_decoded, path, as_stored=intensity_range != EIGHT_BIT)
    return values if is_image else as_image(values, intensity_range, f"image {path}")


def _decoded(path: str | Path, *, as_stored: bool) -> tuple[np.ndarray, bool]:
    """Return (H, W, 3) uint8 RGB and True; or values of the file's own type, if wanted or deep, and False."""
    data = read_bytes(path)
    if data is None:
        raise unreadable(path, "image")
    stored = number_format(reader_of(data))
    if stored.is_deep or as_stored:
        return deep_values(data, path), False
    check_pages(stored.pages, path, "image")
    image, reason = decode_bytes(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise unreadable(path, "image", reason)
    return image, True


def as_image(values: np.ndarray, intensity_range: Range, name: str) -> np.ndarray:
    """Return (H, W) or (H, W, 3) values of any number type as (H, W, 3) uint8, see `intensity.to_uint8`."""
    image = to_uint8(values, intensity_range, name)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


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


def fit_window(own: Sequence[int], size: Sequence[int], fit: str) -> tuple[slice, slice]:
    """Return the rows and columns that an image takes in a picture of another size.

    Args:
        own: (height, width) of the image.
        size: (height, width) of the picture.
        fit: `stretch`: all of them; `letterbox`: as many as keep its aspect, in the middle.
    """
    if fit == "stretch":
        return slice(0, size[0]), slice(0, size[1])
    scale = min(size[0] / own[0], size[1] / own[1])
    sides = [min(max(1, round(side * scale)), most) for side, most in zip(own, size, strict=True)]
    first, second = ((most - side) // 2 for side, most in zip(sides, size, strict=True))
    return slice(first, first + sides[0]), slice(second, second + sides[1])


def fit_image(image: np.ndarray, size: Sequence[int], fit: str) -> np.ndarray:
    """Resize to `size` = (height, width), see `fit_window`; padding is black."""
    rows, columns = fit_window(image.shape[:2], size, fit)
    resized = resize_image(image, (rows.stop - rows.start, columns.stop - columns.start))
    return _padded(resized, size, rows, columns, 0)


def fit_mask(mask: np.ndarray, size: Sequence[int], fit: str) -> np.ndarray:
    """Resize a label mask to `size` = (height, width), see `fit_window`; padding is 255, ignored."""
    rows, columns = fit_window(mask.shape, size, fit)
    resized = resize_mask(mask, (rows.stop - rows.start, columns.stop - columns.start))
    return _padded(resized, size, rows, columns, IGNORE)


def _padded(pixels: np.ndarray, size: Sequence[int], rows: slice, columns: slice, value: int) -> np.ndarray:
    if pixels.shape[:2] == tuple(size):
        return pixels
    picture = np.full((*size, *pixels.shape[2:]), value, pixels.dtype)
    picture[rows, columns] = pixels
    return picture


def find_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by stem; one listing, because a stat per file is slow on network disks.

    Hidden files are left out, such as the `._x.png` that macOS puts beside `x.png` on foreign disks. Stems
    are in the composed form of Unicode, see `same_name`.

    Args:
        folder: The folder, without those below it.
        suffixes: Endings to look for, in lower case.

    Raises:
        UserError: The folder cannot be read, or two of its files have one stem.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}. Make it readable.") from error
    check_file_names(names)
    files: dict[str, Path] = {}
    for name in names:
        stem, suffix = os.path.splitext(same_name(name))
        if suffix.lower() not in suffixes:
            continue
        if stem in files:
            raise UserError(
                f"{folder} holds two files for {stem!r}: {files[stem].name} and {name}. Keep one."
            )
        files[stem] = folder / name
    return files


def images_below(folder: Path, *, without: str | None = None) -> list[Path]:
    """Return the images below a folder, relative to it and sorted; hidden files and folders are left out.

    Args:
        folder: Where to look.
        without: Folders that hold a file of this name are left out, with all below them.

    Raises:
        UserError: There is no image, or a name is not UTF-8.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and not (without is not None and Path(parent, name, without).is_file())
        ]
        images = (name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != ".")
        found += [Path(parent, name).relative_to(folder) for name in images]
    if not found:
        raise UserError(f"data.data_dir={folder} holds no image; looked for {', '.join(IMAGE_SUFFIXES)}.")
    check_file_names(map(str, found))
    return sorted(found)


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode an image by the suffix of `path` and write it atomically.

    RGB must be uint8; one channel may be uint16 too, where the format has it (PNG, TIFF; both are lossless).
    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    _, data = cv2.imencode(path.suffix, pixels)
    # Not synced to disk one by one: an image that a power cut loses is simply predicted again.
    write_atomically(path, lambda file: file.write(data.data), sync=False)


def parse_image_size(value: int | Sequence[int], *, key: str = "data.image_size") -> tuple[int, int]:
    """Return (height, width) from a side or a pair.

    Args:
        value: In pixels.
        key: Where it was given, for the message.

    Raises:
        UserError: Not one or two integers of at least 32.
    """
    size = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(size) != 2 or any(not isinstance(side, int) or side < 32 for side in size):
        raise UserError(f"{key}={value} is not valid; give one side or [height, width], each >= 32 pixels.")
    return size[0], size[1]
