from __future__ import annotations

import io
import struct
import unicodedata
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from polymask.data.images import (
    find_files,
    fit_image,
    fit_mask,
    fit_window,
    read_image,
    resize_image,
    resize_mask,
)
from polymask.errors import UserError


def disc(size: int = 40) -> np.ndarray:
    """A mask (size, size) of booleans."""
    y, x = np.mgrid[:size, :size]
    return (x - 18) ** 2 + (y - 22) ** 2 < 120


def colours(height: int = 20, width: int = 30) -> np.ndarray:
    """A smooth RGB image with a different value in each channel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 6 * x, 30 + 7 * y, 200 - 3 * x - 3 * y], axis=-1).astype(np.uint8)


def test_image_comes_as_rgb(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "ü image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "ü image.png"), colours())


def test_grey_image_repeats_its_channel(tmp_path):
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_image_is_mapped_linearly_by_the_given_range(tmp_path, dtype, suffix, channels):
    if dtype == np.float32 and suffix == "png":
        pytest.skip("PNG has no floating-point numbers")
    values = (colours()[..., :channels].astype(dtype) * 2 + 100).squeeze()
    assert cv2.imwrite(str(tmp_path / f"image.{suffix}"), values[..., ::-1] if channels == 3 else values)
    found = read_image(tmp_path / f"image.{suffix}", (150.0, 450.0))
    wanted = np.rint((values.astype(np.float64) - 150) / 300 * 255).clip(0, 255)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted if channels == 3 else np.dstack([wanted] * 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "16.png", "16.tif"])
def test_images_of_every_format_stand_upright_as_pillow_shows_them(tmp_path, suffix, orientation):
    deep = suffix.startswith("16")
    array = colours()[..., 0].astype(np.uint16) * 9 if deep else colours()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(array).save(path, exif=exif)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    found = read_image(path, (0.0, 2550.0)) if deep else read_image(path)
    np.testing.assert_array_equal(found[..., 0] if deep else found, np.rint(wanted / 10) if deep else wanted)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "1", "L", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_channels_of_every_kind_become_rgb_as_pillow_converts_them(tmp_path, mode, suffix):
    image = Image.fromarray(colours()).convert(mode)
    path = tmp_path / f"image.{suffix}"
    try:
        image.save(path)
    except OSError:
        pytest.skip("the format has no such images")
    with Image.open(path) as stored:
        if "A" in stored.mode:  # the colours, whatever their opacity
            bands = stored.split()[:-1]
            wanted = np.dstack([np.asarray(bands[min(k, len(bands) - 1)]) for k in range(3)])
        else:
            wanted = np.asarray(stored.convert("RGB"))
    assert np.abs(read_image(path).astype(int) - wanted).max() <= (2 if mode == "CMYK" else 0)


def test_several_pages_are_refused_with_their_number(tmp_path):
    pages = [Image.fromarray(colours() + np.uint8(k)) for k in range(5)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"image .*stack\.tif has 5 pages.*one file per page"):
        read_image(tmp_path / "stack.tif")


def test_hidden_files_are_no_images(tmp_path):
    for name in ("a.png", "._a.png", ".hidden.png"):
        (tmp_path / name).touch()
    assert find_files(tmp_path, (".png",)) == {"a": tmp_path / "a.png"}


def test_stems_are_in_the_composed_form_of_unicode(tmp_path):
    decomposed = unicodedata.normalize("NFD", "näevus.png")
    assert decomposed != "näevus.png"
    (tmp_path / decomposed).touch()
    found = find_files(tmp_path, (".png",))
    assert list(found) == ["näevus"]
    assert found["näevus"].exists()


def test_opacity_is_left_out(tmp_path):
    opaque = np.full((20, 30, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([colours(), opaque], axis=-1)).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), colours())


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn clockwise to show it
    Image.fromarray(colours()).save(tmp_path / "image.jpg", quality=100, subsampling=0, exif=exif)
    found = read_image(tmp_path / "image.jpg").astype(int)
    assert found.shape == (30, 20, 3)
    assert np.abs(found - np.rot90(colours(), -1)).max() <= 4


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG file with a valid header for this size and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def bmp_of_claimed_size(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(60)


DAMAGED = {
    "empty.png": b"",
    "text.jpg": b"not an image at all",
    "truncated.png": cv2.imencode(".png", colours())[1].tobytes()[:200],
    "no_pixels.png": png_of_claimed_size(64, 64),
    "huge.png": png_of_claimed_size(2**30, 2**30),
    "huge.bmp": bmp_of_claimed_size(2**30, 2**30),
}


@pytest.mark.parametrize("name", [*DAMAGED, "missing.png", "folder.png"])
def test_unreadable_file_is_a_user_error_that_names_it(tmp_path, name):
    if name in DAMAGED:
        (tmp_path / name).write_bytes(DAMAGED[name])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=rf"cannot read \w+ .*{name}: the file is missing, empty or damaged"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("size", [(17, 23), (64, 96), (40, 90), (128, 31)])
def test_mask_resizing_takes_the_pixel_under_the_centre_and_invents_no_label(size):
    # Of odd sides no centre falls on the border between two pixels.
    mask = np.random.default_rng(0).choice([0, 1, 3, 255], (47, 65)).astype(np.uint8)
    found = resize_mask(mask, size)
    rows, columns = (
        [int((i + 0.5) * source / target) for i in range(target)]
        for source, target in zip(mask.shape, size, strict=True)
    )
    np.testing.assert_array_equal(found, mask[np.ix_(rows, columns)])


def test_resizing_to_the_same_size_changes_nothing():
    mask = disc().astype(np.uint8)
    np.testing.assert_array_equal(resize_mask(mask, (40, 40)), mask)
    np.testing.assert_array_equal(resize_image(colours(), (20, 30)), colours())


def test_shrinking_an_image_averages_areas():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    means = image.reshape(10, 4, 15, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(resize_image(image, (10, 15)) - means).max() <= 0.51


def test_growing_an_image_interpolates_linearly():
    found = resize_image(np.array([[[0] * 3, [100] * 3]], np.uint8), (1, 4))
    assert found[0, :, 0].tolist() == [0, 25, 75, 100]


@pytest.mark.parametrize(
    ("own", "size", "window"),
    [
        ((450, 600), (256, 256), (32, 224, 0, 256)),
        ((600, 450), (256, 256), (0, 256, 32, 224)),
        ((450, 600), (96, 128), (0, 96, 0, 128)),
        ((10, 20), (40, 60), (5, 35, 0, 60)),
        ((1, 3000), (64, 64), (31, 32, 0, 64)),  # never less than a pixel
        ((99, 100), (64, 64), (0, 63, 0, 64)),
    ],
)
def test_a_letterbox_keeps_the_aspect_and_is_in_the_middle(own, size, window):
    rows, columns = fit_window(own, size, "letterbox")
    assert (rows.start, rows.stop, columns.start, columns.stop) == window
    assert fit_window(own, size, "stretch") == (slice(0, size[0]), slice(0, size[1]))


def test_a_letterbox_holds_the_resized_image_and_padding():
    image, mask = colours(), disc(40)[:20, :30].astype(np.uint8)
    fitted, fitted_mask = fit_image(image, (64, 64), "letterbox"), fit_mask(mask, (64, 64), "letterbox")
    assert (fitted.shape, fitted.dtype, fitted_mask.shape) == ((64, 64, 3), np.uint8, (64, 64))
    height = 43  # of 64 * 20 / 30
    inside = slice(10, 10 + height)
    np.testing.assert_array_equal(fitted[inside], resize_image(image, (height, 64)))
    np.testing.assert_array_equal(fitted_mask[inside], resize_mask(mask, (height, 64)))
    outside = np.r_[0:10, 10 + height : 64]
    assert (fitted[outside] == 0).all()
    assert (fitted_mask[outside] == 255).all()


@pytest.mark.parametrize("size", [(64, 64), (40, 40), (17, 17)])
def test_a_letterbox_of_equal_aspect_is_a_stretched_image(size):
    image, mask = colours(40, 40), disc().astype(np.uint8)
    np.testing.assert_array_equal(fit_image(image, size, "letterbox"), fit_image(image, size, "stretch"))
    np.testing.assert_array_equal(fit_mask(mask, size, "letterbox"), resize_mask(mask, size))
    np.testing.assert_array_equal(fit_image(image, size, "stretch"), resize_image(image, size))
