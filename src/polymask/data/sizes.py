"""What headers tell of the files of a data set of objects, before any of them is decoded."""

from __future__ import annotations

from pathlib import Path

from polymask.data.decoding import check_pages, read_deep
from polymask.data.headers import is_whole, read_header


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image; one whose header is unclear or whose end is missing is decoded.

    Raises:
        UserError: The file is missing, damaged or holds several pages.
    """
    header = read_header(path)
    if header is None or is_whole(path, header) is False:
        height, width = read_deep(path).shape[:2]
        return height, width
    check_pages(header.pages, path, "image")
    return header.height, header.width


def mask_size(path: Path) -> tuple[int, int] | None:
    """Return (height, width) of a label map or mask, None where only decoding tells.

    Raises:
        UserError: The file is missing or holds several pages.
    """
    header = read_header(path)
    if header is None or is_whole(path, header) is False:
        return None
    check_pages(header.pages, path, "label map")
    return header.height, header.width
