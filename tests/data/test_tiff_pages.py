from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.tiff import page_offsets
from polymask.data.tiff_pages import single_page

PAGES = np.random.default_rng(0).integers(0, 60000, (3, 150, 130), np.uint16)


def reader(path: Path):
    data = path.read_bytes()
    return lambda offset, size: data[offset : offset + size]


def decoded(path: Path) -> list[np.ndarray]:
    """Each page, taken out and decoded alone."""
    files = (single_page(reader(path), offset) for offset in page_offsets(reader(path)))
    return [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED) for file in files]


def save(path: Path, **options) -> Path:
    first, *others = (Image.fromarray(page) for page in PAGES)
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "tiff_lzw"},
        {"compression": "tiff_adobe_deflate", "tiffinfo": {317: 2}},  # differences of neighbours
        {"compression": "packbits", "tiffinfo": {278: 7}},  # many strips
        {"big_tiff": True},
        {"big_tiff": True, "compression": "tiff_lzw", "tiffinfo": {278: 7}},
    ],
)
def test_a_page_alone_decodes_as_in_its_file(tmp_path, options):
    np.testing.assert_array_equal(decoded(save(tmp_path / "p.tif", **options)), PAGES)


def test_pages_of_other_programs(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for number, options in enumerate(
        (
            {"byteorder": ">"},
            {"bigtiff": True, "byteorder": ">"},
            {"tile": (32, 48)},
            {"tile": (32, 48), "byteorder": ">"},
            {"imagej": True},
            {"rowsperstrip": 1},
        )
    ):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, PAGES, photometric="minisblack", **options)
        np.testing.assert_array_equal(decoded(path), PAGES)


def test_what_is_cut_off_gives_no_page(tmp_path):
    path = save(tmp_path / "p.tif")
    offsets, data = page_offsets(reader(path)), path.read_bytes()
    assert len(offsets) == 3
    assert single_page(lambda offset, size: data[:3000][offset : offset + size], 8) is None
    assert single_page(reader(path), len(data)) is None
    assert page_offsets(lambda offset, size: b"no TIFF"[:size]) is None
    assert page_offsets(lambda offset, size: data[: offsets[-1] + 1][offset : offset + size]) is None
    # A row of directories that bites its tail ends.
    last = bytearray(data)
    count = struct.unpack_from("<H", data, offsets[-1])[0]
    struct.pack_into("<I", last, offsets[-1] + 2 + 12 * count, offsets[0])
    assert page_offsets(lambda offset, size: bytes(last[offset : offset + size])) == offsets
