"""From the bytes of an image file to its pixels, as they are stored."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import ImageOps

from polymask.data.decoder_messages import listen
from polymask.data.headers import Header, number_format, open_image, read_header
from polymask.data.tiff import ReadAt
from polymask.errors import UserError

# What to do with stored rows and columns for each EXIF orientation: (transpose, flip rows, flip columns).
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def read_deep(path: str | Path) -> np.ndarray:
    """Return the values of an image of any depth, turned upright, without opacity.

    Returns:
        (H, W), or (H, W, 3) RGB, of the file's own type; a palette gives its colours.

    Raises:
        UserError: The file is missing or damaged, has several pages, or values that are no numbers.
    """
    data = read_bytes(path)
    if data is None:
        raise unreadable(path, "image")
    return deep_values(data, path)


def deep_values(data: np.ndarray, path: str | Path) -> np.ndarray:
    """Return what `read_deep` does, of the file's bytes."""
    check_pages(number_format(reader_of(data)).pages, path, "image")
    values, reason = decode_bytes(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if values is None:
        raise unreadable(path, "image", reason)
    check_finite(values, f"image {path}")
    return values if values.ndim == 2 else _rgb(values)[..., :3]


def read_values(path: Path, what: str) -> np.ndarray:
    """Return the stored values of a mask or label map, turned upright as the EXIF orientation says.

    Values keep their type and are not rescaled, but for greys of 1, 2 or 4 bits, which are stretched to 0
    to 255. A palette of greys gives these greys, any other one gives the indices into it.

    Args:
        path: An image file.
        what: What it is to the user, such as `mask`; for messages.

    Returns:
        (H, W), or (H, W, C) with the channels RGB or RGBA; grey with opacity comes as RGBA.

    Raises:
        UserError: The file is missing or damaged, or has several pages.
    """
    data = read_bytes(path)
    if data is not None:
        check_pages(number_format(reader_of(data)).pages, path, what)
    header = read_header(path) if data is not None else None
    if data is not None and header is not None and header.has_palette:
        values, reason = _palette_values(data), ""
    else:
        values, reason = (None, "") if data is None else decode_bytes(data, cv2.IMREAD_UNCHANGED)
        values = None if values is None else _upright(_rgb(values), header)
    if values is None:
        raise unreadable(path, what, reason)
    return values


def unreadable(path: str | Path, what: str, reason: str = "") -> UserError:
    """Return the error of a file that cannot be decoded, with what the decoder said of it."""
    said = f" ({reason})" if reason else ""
    return UserError(
        f"cannot read {what} {path}: the file is missing, empty or damaged{said}; replace or remove it."
    )


def check_pages(pages: int, path: str | Path, what: str) -> None:
    """Raise UserError when a file has more than one page."""
    if pages > 1:
        raise UserError(
            f"{what} {path} has {pages} pages, and only one picture per file is read; split the stack into "
            "one file per page."
        )


def read_bytes(path: str | Path) -> np.ndarray | None:
    """Return the bytes of a file, None when it is missing, empty or cannot be opened."""
    # Through a buffer: cv2.imread fails on non-ASCII names on Windows.
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    return data if data.size else None


def reader_of(data: np.ndarray) -> ReadAt:
    """Return what reads parts of a file that is in memory already."""
    return lambda offset, size: data[offset : offset + size].tobytes()


def decode_bytes(data: np.ndarray, flags: int) -> tuple[np.ndarray | None, str]:
    """Decode a file's bytes with OpenCV.

    A decoder fills what is damaged with grey or zeros and only prints a line; such a file counts as damaged.
    PNG has checksums, so that no damage stays unseen. A JPEG is recognised where its data end too early or
    too late (nearly always, since all that follows the damage shifts), a TIFF with LZW or deflate where its
    codes become impossible. What cannot be told: single wrong bits, and any change of an uncompressed TIFF or
    BMP that leaves the length as it is.

    Returns:
        The pixels, None when they are damaged; and the decoder's reason, "" when it gave none.
    """
    try:
        values, damage = listen(lambda: cv2.imdecode(data, flags))
    except cv2.error:  # a damaged header may claim a size that OpenCV refuses
        return None, ""
    return (None, damage) if damage else (values, "")


def _rgb(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        return values
    order = [2, 1, 0, 3][: values.shape[2]]  # OpenCV gives blue first
    return np.ascontiguousarray(values[..., order])


def _upright(values: np.ndarray, header: Header | None) -> np.ndarray:
    # OpenCV turns a TIFF by itself, but no other format when it is asked for the stored values.
    if header is None or header.format == "TIFF" or header.orientation not in _TURNS:
        return values
    transpose, flip_rows, flip_columns = _TURNS[header.orientation]
    turned = values.swapaxes(0, 1) if transpose else values
    return np.ascontiguousarray(turned[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _palette_values(data: np.ndarray) -> np.ndarray | None:
    """Return the greys of a palette of greys, else the indices; OpenCV would give the colours."""
    try:
        # Not from the path: Pillow maps such files into memory and then turns a TIFF wrongly.
        with open_image(io.BytesIO(data.tobytes())) as image:
            palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
            indices = np.array(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError):
        return None
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=1))
    if used.max() >= len(palette):
        return indices
    colours = palette[used]
    return palette[indices, 0].astype(np.uint8) if (colours == colours[:, :1]).all() else indices


def check_finite(values: np.ndarray, name: str) -> None:
    """Raise UserError when floating-point values are NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise UserError(
            f"{name} has {count} values that are no finite numbers (NaN or infinity); replace them."
        )


def grey_and_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the (H, W) greys of raw values, of colours the largest channel, and the alpha channel if any."""
    if values.ndim == 2:
        return values, None
    has_alpha = values.shape[2] in (2, 4)
    colours = values[..., :-1] if has_alpha else values
    return colours.max(axis=-1), np.ascontiguousarray(values[..., -1]) if has_alpha else None
