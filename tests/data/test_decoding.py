from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from polymask.data.decoding import read_values
from polymask.errors import UserError

ORIENTATIONS = range(1, 9)


def pattern(channels: int = 1, dtype: type = np.uint8) -> np.ndarray:
    """(12, 16) or (12, 16, channels), every pixel different in some channel."""
    values = np.arange(12 * 16 * channels).reshape(12, 16, channels)
    values = values * (1 if dtype == np.uint8 else 7)
    return values.astype(dtype).squeeze()


def save_turned(image: Image.Image, path: Path, orientation: int, **options: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)


def as_pillow_shows(path: Path) -> np.ndarray:
    # From memory: of a path, Pillow maps an uncompressed TIFF and then turns it wrongly.
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_values_stand_upright_as_pillow_shows_them(tmp_path, orientation, suffix):
    path = tmp_path / f"mask.{suffix}"
    save_turned(Image.fromarray(pattern()), path, orientation)
    np.testing.assert_array_equal(read_values(path, "mask"), as_pillow_shows(path))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_indices_of_a_palette_stand_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"map.{suffix}"
    image = Image.fromarray(pattern() % 5, "L").convert("P")
    image.putpalette([0, 0, 0, 90, 0, 0, 0, 90, 0, 0, 0, 90, 5, 5, 5])
    save_turned(image, path, orientation)
    found = read_values(path, "label map")
    np.testing.assert_array_equal(found, as_pillow_shows(path))
    assert set(np.unique(found)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_palette_of_greys_gives_the_greys(tmp_path, suffix):
    indices = (pattern() % 3).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    # Entry 3 has a colour, but no pixel uses it.
    image.putpalette([255, 255, 255, 0, 0, 0, 40, 40, 40, 1, 2, 3])
    image.save(tmp_path / f"mask.{suffix}")
    expected = np.array([255, 0, 40])[indices]
    np.testing.assert_array_equal(read_values(tmp_path / f"mask.{suffix}", "mask"), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_deep_values_are_not_rescaled(tmp_path, dtype):
    values = pattern(dtype=dtype) + 300
    assert cv2.imwrite(str(tmp_path / "map.tif"), values)
    found = read_values(tmp_path / "map.tif", "label map")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_channels_come_as_rgb_and_opacity(tmp_path, channels, dtype):
    values = pattern(channels, dtype)
    order = [2, 1, 0, 3][:channels]
    assert cv2.imwrite(str(tmp_path / "mask.png"), np.ascontiguousarray(values[..., order]))
    found = read_values(tmp_path / "mask.png", "mask")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_grey_with_opacity_comes_as_rgba(tmp_path):
    grey, alpha = pattern(), pattern()[::-1]
    Image.fromarray(np.dstack([grey, alpha])).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(
        read_values(tmp_path / "mask.png", "mask"), np.dstack([grey, grey, grey, alpha])
    )


def test_several_pages_are_refused_with_their_number(tmp_path):
    pages = [Image.fromarray(pattern() + k) for k in range(3)]
    pages[0].save(tmp_path / "map.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"label map .*map\.tif has 3 pages.*split the stack"):
        read_values(tmp_path / "map.tif", "label map")


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0\x08\0\0\0\xff\xff"])
def test_file_that_is_none_is_named(tmp_path, content):
    (tmp_path / "mask.tif").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read mask .*mask\.tif: .*damaged"):
        read_values(tmp_path / "mask.tif", "mask")
    with pytest.raises(UserError, match=r"cannot read mask .*none\.png"):
        read_values(tmp_path / "none.png", "mask")


def test_damaged_palette_file_is_named(tmp_path):
    path = tmp_path / "map.png"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 99, (64, 64), dtype=np.uint8)).convert("P")
    image.putpalette(np.random.default_rng(1).integers(0, 256, 300).tolist())
    image.save(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match=r"cannot read label map .*map\.png"):
        read_values(path, "label map")
