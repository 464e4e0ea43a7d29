"""The directories of a TIFF file: what its pages are, without decoding them.

Pillow opens no TIFF with three channels of 16 bits or with 64-bit numbers, so tags are read here.
Specification: Adobe, "TIFF Revision 6.0" (1992), section 2; BigTIFF has 8-byte counts and offsets instead.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]
"""Returns `size` bytes from an offset of a file, fewer at its end: `read_at(offset, size)`."""

_BYTE_ORDER = {b"II": "<", b"MM": ">"}
_CLASSIC, _BIG = 42, 43
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field type to its code in `struct`
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_ORIENTATION, _CHANNELS, _NUMBER_FORMAT = 274, 277, 339
_REDUCED_OR_MASK = 0b101  # a thumbnail or a transparency mask, which belongs to another page
_MOST_PAGES = 100_000


@dataclass(frozen=True, kw_only=True)
class TiffHeader:
    """The first page of a TIFF file, and how many there are.

    Attributes:
        height: Rows as stored, before the orientation is applied.
        width: Columns as stored.
        channels: Values per pixel.
        bits: Bits per value.
        is_float: Whether values are floating-point numbers.
        has_palette: Whether values are indices into a table of colours.
        orientation: 1 (upright) to 8, as in EXIF.
        pages: Pictures in the file; thumbnails and transparency masks are none.
    """

    height: int
    width: int
    channels: int
    bits: int
    is_float: bool
    has_palette: bool
    orientation: int
    pages: int


def is_tiff(start: bytes) -> bool:
    """Return whether a file that starts like this is a TIFF."""
    order = _BYTE_ORDER.get(start[:2])
    return order is not None and len(start) >= 4 and struct.unpack_from(f"{order}H", start, 2)[0] in (42, 43)


def read_tiff(read_at: ReadAt) -> TiffHeader | None:
    """Read the directories of a TIFF file; None when they are damaged."""
    try:
        return _read(read_at)
    except (struct.error, KeyError):
        return None


def page_offsets(read_at: ReadAt) -> list[int] | None:
    """Return where the directory of each page lies; None where one of them is missing or damaged."""
    try:
        return [offset for offset, tags in _directories(read_at, all_needed=True) if _is_page(tags)]
    except (struct.error, KeyError):
        return None


def _is_page(tags: Mapping[int, int]) -> bool:
    return not tags.get(_SUBFILE, 0) & _REDUCED_OR_MASK


def _directories(read_at: ReadAt, *, all_needed: bool = False) -> Iterator[tuple[int, dict[int, int]]]:
    """Yield offset and tags of each directory, of those before a damaged one unless all are needed."""
    order, is_big = byte_order(read_at)
    offset = struct.unpack(f"{order}Q", read_at(8, 8))[0] if is_big else _number(read_at, 4, order)
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _MOST_PAGES:
        seen.add(offset)
        try:
            tags, following = _directory(read_at, offset, order, is_big=is_big)
        except struct.error:
            if all_needed or len(seen) == 1:
                raise
            break  # cut off after whole pages: decoding decides
        yield offset, tags
        offset = following


def byte_order(read_at: ReadAt) -> tuple[str, bool]:
    """Return the byte order as `struct` names it, and whether offsets have 8 bytes."""
    order = _BYTE_ORDER[read_at(0, 2)]
    return order, struct.unpack(f"{order}H", read_at(2, 2))[0] == _BIG


def _number(read_at: ReadAt, offset: int, order: str) -> int:
    return int(struct.unpack(f"{order}I", read_at(offset, 4))[0])


def _read(read_at: ReadAt) -> TiffHeader:
    first: Mapping[int, int] | None = None
    pages = 0
    for _, tags in _directories(read_at):
        first = tags if first is None else first
        pages += _is_page(tags)
    if first is None:
        raise KeyError("no directory")
    orientation = first.get(_ORIENTATION, 1)
    return TiffHeader(
        height=first[_HEIGHT],
        width=first[_WIDTH],
        channels=first.get(_CHANNELS, 1),
        bits=first.get(_BITS, 1),
        is_float=first.get(_NUMBER_FORMAT, 1) == 3,
        has_palette=first.get(_PHOTOMETRIC) == 3,
        orientation=orientation if orientation in range(1, 9) else 1,
        pages=max(pages, 1),
    )


def _directory(read_at: ReadAt, offset: int, order: str, *, is_big: bool) -> tuple[dict[int, int], int]:
    """Return the first value of each integer tag, and the offset of the next directory (0: none)."""
    count_code, entry_size, word = ("Q", 20, 8) if is_big else ("H", 12, 4)
    head = struct.calcsize(f"{order}{count_code}")
    count = struct.unpack(f"{order}{count_code}", read_at(offset, head))[0]
    table = read_at(offset + head, min(count, 4096) * entry_size + word)
    tags = {}
    for position in range(0, min(count, 4096) * entry_size, entry_size):
        tag, kind = struct.unpack_from(f"{order}HH", table, position)
        if kind not in _INTEGERS:
            continue
        number = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", table, position + 4)[0]
        code = f"{order}{_INTEGERS[kind]}"
        value_at = position + 4 + word
        if number * struct.calcsize(code) <= word:
            tags[tag] = struct.unpack_from(code, table, value_at)[0]
        elif tag in (_BITS, _NUMBER_FORMAT):  # one per channel: they lie elsewhere, all the same
            where = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", table, value_at)[0]
            tags[tag] = struct.unpack(code, read_at(where, struct.calcsize(code)))[0]
    following = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", table, count * entry_size)[0]
    return tags, following
