"""What headers tell of the files of a data set of objects, before any of them is decoded."""

from __future__ import annotations

import os
from pathlib import Path

from polymask.data.headers import Header, read_header
from polymask.data.images import read_image
from polymask.errors import UserError

# The last bytes of a whole file; what programs append comes after them.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_TAIL = 64


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image; one whose header is unclear or whose end is missing is decoded.

    Raises:
        UserError: The file is missing, damaged or holds several pages.
    """
    header = read_header(path)
    if header is None or not _is_whole(path, header):
        height, width = read_image(path).shape[:2]
        return height, width
    check_pages(path, header, "image")
    return header.height, header.width


def mask_size(path: Path) -> tuple[int, int] | None:
    """Return (height, width) of a label map or mask, None where only decoding tells.

    Raises:
        UserError: The file is missing or holds several pages.
    """
    header = read_header(path)
    if header is None or not _is_whole(path, header):
        return None
    check_pages(path, header, "label map")
    return header.height, header.width


def check_pages(path: Path, header: Header, what: str) -> None:
    """Raise UserError when a file holds several pages: which one is meant, nobody says."""
    if header.pages > 1:
        raise UserError(
            f"{what} {path} has {header.pages} pages, of which only the first would be read; save each page "
            "as an image of its own."
        )


def _is_whole(path: Path, header: Header) -> bool:
    """Return whether the file has the end that its format demands; of other formats True."""
    end = _ENDS.get(header.format)
    if end is None:
        return True
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        return end in file.read()
