from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.decoding import reader_of
from polymask.data.headers import Header, NumberFormat, number_format, read_header
from polymask.data.images import read_image
from polymask.errors import UserError


def stored_format(path: Path) -> NumberFormat:
    return number_format(reader_of(np.fromfile(path, np.uint8)))


def saved(path: Path, array: np.ndarray, **options: object) -> Header:
    Image.fromarray(array).save(path, **options)
    return seen(path)


def seen(path: Path) -> Header:
    header = read_header(path)
    assert header is not None
    return header


def grey(dtype: type = np.uint8) -> np.ndarray:
    return np.arange(20 * 30).reshape(20, 30).astype(dtype)


@pytest.mark.parametrize("height", [10_000, 20_000])  # above Pillow's limits: for its warning, for its error
def test_large_images_are_images(tmp_path, height):
    path = tmp_path / "image.png"
    Image.fromarray(grey()).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 10_000, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    limit = Image.MAX_IMAGE_PIXELS
    header = seen(path)
    assert (header.height, header.width) == (height, 10_000)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_decoded_image_for_every_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    header = saved(tmp_path / f"image.{suffix}", np.dstack([grey()] * 3), exif=exif)
    image = read_image(tmp_path / f"image.{suffix}")
    assert (header.height, header.width) == image.shape[:2]
    assert header.orientation == orientation
    assert (header.channels, header.bits, header.pages) == (3, 8, 1)


@pytest.mark.parametrize(
    ("suffix", "array", "bits", "is_float"),
    [
        ("png", grey(np.uint8), 8, False),
        ("png", grey(np.uint16), 16, False),
        ("tif", grey(np.uint16), 16, False),
        ("tif", grey(np.int32), 32, False),
        ("tif", grey(np.float32), 32, True),
        ("tif", grey(np.float64), 64, True),
        ("tif", np.dstack([grey(np.uint16)] * 3), 16, False),
        ("png", np.dstack([grey(np.uint16)] * 3), 16, False),
        ("bmp", grey(), 8, False),
        ("jpg", grey(), 8, False),
    ],
)
def test_number_format_of_every_depth(tmp_path, suffix, array, bits, is_float):
    path = tmp_path / f"image.{suffix}"
    assert cv2.imwrite(str(path), array)
    header = seen(path)
    assert (header.height, header.width) == array.shape[:2]
    assert (header.bits, header.is_float) == (bits, is_float)
    if suffix != "bmp":  # OpenCV writes grey as a palette
        assert header.channels == (1 if array.ndim == 2 else 3)
    assert (stored_format(path).bits, stored_format(path).is_float) == (bits, is_float)


def test_palette_is_told(tmp_path):
    image = Image.fromarray(grey() % 3).convert("P")
    image.putpalette([0, 0, 0, 9, 0, 0, 0, 9, 0])
    for name in ("map.png", "map.tif"):
        image.save(tmp_path / name)
        assert seen(tmp_path / name).has_palette
    assert not saved(tmp_path / "grey.png", grey()).has_palette


@pytest.mark.parametrize("is_big", [False, True])
def test_pages_of_a_tiff_are_counted_and_thumbnails_are_none(tmp_path, is_big):
    pages = [Image.fromarray(grey() + k) for k in range(4)]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], big_tiff=is_big)
    assert seen(path).pages == stored_format(path).pages == 4


def test_thumbnail_beside_a_page_is_no_page(tmp_path):
    path = tmp_path / "image.tif"
    pages = [Image.fromarray(grey() + k) for k in range(2)]
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={254: 0})
    assert seen(path).pages == 2
    kind = bytes([254, 0, 4, 0, 1, 0, 0, 0])  # NewSubfileType, one integer of 4 bytes
    before, second, after = path.read_bytes().rpartition(kind)
    path.write_bytes(before + second + bytes([1, 0, 0, 0]) + after[4:])  # 1: a reduced copy of another page
    assert seen(path).pages == 1


def test_second_picture_in_a_phones_jpeg_is_no_page(tmp_path):
    image = Image.fromarray(np.dstack([grey()] * 3))
    image.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[image])
    assert seen(tmp_path / "phone.jpg").pages == 1


@pytest.mark.parametrize(
    "content", [b"", b"text", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_damaged_header_is_left_to_decoding(tmp_path, content):
    (tmp_path / "image.tif").write_bytes(content)
    assert read_header(tmp_path / "image.tif") is None
    assert not stored_format(tmp_path / "image.tif").is_deep


def test_directories_in_a_circle_end(tmp_path):
    saved(tmp_path / "image.tif", grey())
    content = bytearray((tmp_path / "image.tif").read_bytes())
    first = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[first : first + 2], "little")
    following = first + 2 + 12 * count
    content[following : following + 4] = content[4:8]
    (tmp_path / "image.tif").write_bytes(content)
    assert seen(tmp_path / "image.tif").pages == 1


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.png: No such file"):
        read_header(tmp_path / "none.png")
