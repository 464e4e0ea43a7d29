"""Single pages of a TIFF file as TIFF files of their own.

Decoders find a page only by walking through all before it, so that reading a stack page by page would take
time in proportion to the square of their number. Here each is read where its directory says that it lies.
"""

from __future__ import annotations

import struct

from polymask.data.tiff import ReadAt, byte_order

_SIZES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 7: (1, "B"), 16: (8, "Q")}  # by field type: bytes and code
_LONG, _LONG8 = 4, 16
_KEPT = (
    256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323, 338, 339, 347,
)  # fmt: skip
"""Size, bits, compression, meaning, fill order, orientation, channels, rows per strip, planes, predictor,
tiles, opacity, number format, tables of JPEG."""
_DATA = ((273, 279), (324, 325))  # offsets and sizes of strips, of tiles

Tags = dict[int, tuple[int, tuple[int, ...]]]
"""Tag to its field type and values."""


def single_page(read_at: ReadAt, offset: int) -> bytes | None:
    """Return a TIFF file that holds one page.

    Args:
        read_at: Reads the file of all pages.
        offset: Where the page's directory lies, see `tiff.page_offsets`.

    Returns:
        The file; None where the directory is damaged or data are missing.
    """
    try:
        order, is_big = byte_order(read_at)
        tags = _tags(read_at, offset, order, is_big=is_big)
        return _file(read_at, tags, order)
    except (struct.error, KeyError):
        return None


def _tags(read_at: ReadAt, offset: int, order: str, *, is_big: bool) -> Tags:
    """Return the tags that decoding needs."""
    count_code, entry_size, word = ("Q", 20, 8) if is_big else ("H", 12, 4)
    word_code = f"{order}{'Q' if is_big else 'I'}"
    head = struct.calcsize(f"{order}{count_code}")
    count = struct.unpack(f"{order}{count_code}", read_at(offset, head))[0]
    table = read_at(offset + head, min(count, 4096) * entry_size)
    wanted = {*_KEPT, *(tag for pair in _DATA for tag in pair)}
    tags: Tags = {}
    for position in range(0, len(table), entry_size):
        tag, kind = struct.unpack_from(f"{order}HH", table, position)
        if tag not in wanted or kind not in _SIZES:
            continue
        number = struct.unpack_from(word_code, table, position + 4)[0]
        size, code = _SIZES[kind]
        data = table[position + 4 + word : position + 4 + 2 * word]
        if number * size > word:
            data = read_at(struct.unpack(word_code, data)[0], number * size)
        tags[tag] = kind, struct.unpack_from(f"{order}{number}{code}", data)
    return tags


def _file(read_at: ReadAt, tags: Tags, order: str) -> bytes:
    """Return the file: header, data, long values, directory."""
    out = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 0))
    offsets_tag, sizes_tag = _DATA[0] if _DATA[0][0] in tags else _DATA[1]
    places = []
    for start, size in zip(tags[offsets_tag][1], tags[sizes_tag][1], strict=True):
        data = read_at(start, size)
        if len(data) < size:
            raise KeyError("data are missing")
        places.append(len(out))
        out += data + bytes(len(data) % 2)
    tags = {**tags, offsets_tag: (_LONG, tuple(places))}
    entries = bytearray(struct.pack(f"{order}H", len(tags)))
    for tag in sorted(tags):
        kind, values = tags[tag]
        kind = _LONG if kind == _LONG8 else kind
        data = struct.pack(f"{order}{len(values)}{_SIZES[kind][1]}", *values)
        if len(data) > 4:
            place = struct.pack(f"{order}I", len(out))
            out += data + bytes(len(data) % 2)
            data = place
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    struct.pack_into(f"{order}I", out, 4, len(out))
    return bytes(out + entries + bytes(4))
