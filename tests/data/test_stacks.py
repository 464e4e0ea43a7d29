from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.stacks import check_percentiles, label_slice, open_stack, read_label_slice, windowed
from polymask.errors import UserError

SHAPE = (20, 24, 30)  # more pages than are decoded at once


def volume(dtype: str = "uint16", shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def write(path: Path, pages: np.ndarray, compression: str = "raw") -> Path:
    """Write with another library than the one that reads."""
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, compression=compression)
    return path


def refused(path: Path, match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        for _ in open_stack(path).pages():
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_slices_are_what_was_written(tmp_path, dtype, compression):
    wanted = volume(dtype)
    stack = open_stack(write(tmp_path / "v.tif", wanted, compression))
    assert (stack.shape, stack.bits) == (SHAPE, 8 * wanted.itemsize)
    np.testing.assert_array_equal(np.stack(list(stack.pages())), wanted)
    for z in (0, 17, 19):
        np.testing.assert_array_equal(stack.read(z), wanted[z])
        assert stack.read(z).dtype == wanted.dtype


def test_other_byte_orders_and_numbers_with_a_sign_are_read(tmp_path):
    wanted = volume() // 2
    path = tmp_path / "signed.tif"
    assert cv2.imwritemulti(str(path), list(wanted.astype(np.int16)))
    pages = list(open_stack(path).pages())
    assert pages[0].dtype == np.uint16
    np.testing.assert_array_equal(pages, wanted)
    first, *others = (
        Image.frombytes("I;16B", page.shape[::-1], page.astype(">u2").tobytes()) for page in wanted
    )
    first.save(tmp_path / "big.tif", save_all=True, append_images=others)
    np.testing.assert_array_equal(list(open_stack(tmp_path / "big.tif").pages()), wanted)


@pytest.mark.parametrize("percentiles", [(0.1, 99.9), (0, 100), (10, 50.5), (25, 25.01)])
def test_the_window_is_that_of_all_values(tmp_path, percentiles):
    for dtype in ("uint8", "uint16"):
        values = volume(dtype)
        stack = open_stack(write(tmp_path / f"{dtype}.tif", values))
        expected = np.percentile(values, percentiles, method="inverted_cdf").astype(float).tolist()
        if expected[0] == expected[1]:
            expected = [values.min(), values.max()]
        assert stack.window(percentiles) == tuple(expected)


def test_a_nearly_empty_volume_keeps_what_is_there_and_an_empty_one_is_black(tmp_path):
    values = np.full(SHAPE, 7, np.uint16)
    stack = open_stack(write(tmp_path / "v.tif", values))
    assert not windowed(values[0], *stack.window()).any()
    values[3, 4, 5] = 900
    stack = open_stack(write(tmp_path / "w.tif", values))
    assert stack.window() == (7, 900)
    assert windowed(values[3], *stack.window())[4, 5] == 255


def test_windowed_values_are_rounded_and_clipped(tmp_path):
    page = np.array([[90, 100, 101, 150, 199, 200, 65535]], np.uint16)
    assert windowed(page, 100, 200).tolist() == [[0, 0, 3, 128, 252, 255, 255]]


def test_memory_does_not_grow_with_the_number_of_slices(tmp_path):
    path = tmp_path / "v.tif"
    pages = list(volume(shape=(4, 512, 512)))
    assert cv2.imwritemulti(str(path), pages * 30, [cv2.IMWRITE_TIFF_COMPRESSION, 8])
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_stack(path).pages()) == 120
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pages[0].nbytes < most < 10 * pages[0].nbytes


def test_what_is_no_volume_is_refused_in_one_line(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    refused(write(tmp_path / "rgb.tif", rgb), "rgb.tif has 3 channels per pixel; save it in greys")
    refused(write(tmp_path / "flat.tif", volume()[:1]), r"flat.tif is a 2-D image of 24 x 30 pixels")
    refused(write(tmp_path / "colours.tif", rgb[:1]), "3 channels")
    real = tmp_path / "real.tif"
    cv2.imwritemulti(str(real), list(np.full(SHAPE, np.nan, np.float32)))
    refused(real, "floating-point numbers; save it with whole numbers of 8 or 16 bits")
    deep = tmp_path / "deep.tif"
    cv2.imwritemulti(str(deep), list(volume().astype(np.uint32)))
    refused(deep, "has 32 bits per value, and 8 or 16 are read")
    negative = tmp_path / "negative.tif"
    cv2.imwritemulti(str(negative), list(volume().astype(np.int16)))
    refused(negative, "has the negative value -")
    Image.fromarray(volume()[0]).save(tmp_path / "v.png")
    refused(tmp_path / "v.png", "is no TIFF file but PNG")
    refused(tmp_path / "absent.tif", "No such file")
    (tmp_path / "text.tif").write_text("no picture")
    refused(tmp_path / "text.tif", "missing, empty or damaged")
    palette = Image.fromarray(rgb[0]).convert("P")
    palette.save(tmp_path / "palette.tif", save_all=True, append_images=[palette])
    refused(tmp_path / "palette.tif", "a palette of colours")


def test_slices_along_another_axis_are_refused(tmp_path):
    flat = volume(shape=(5, 40, 48))
    refused(write(tmp_path / "last.tif", flat.transpose(1, 2, 0).copy()), "has 40 pages of 48 x 5 pixels")
    refused(write(tmp_path / "middle.tif", flat.transpose(1, 0, 2).copy()), "axes z, y, x")
    open_stack(write(tmp_path / "first.tif", flat))
    # Tall and thin ones are volumes, too.
    open_stack(write(tmp_path / "tall.tif", volume(shape=(60, 25, 30))))
    channels = tmp_path / "channels.tif"
    cv2.imwrite(str(channels), flat.transpose(1, 2, 0)[..., :4].copy())
    refused(channels, "4 channels")


def test_pages_must_be_of_one_kind(tmp_path):
    first, *others = (Image.fromarray(page) for page in volume())
    others[4] = others[4].resize((30, 20), 0)
    first.save(tmp_path / "v.tif", save_all=True, append_images=others)
    assert "page 5 is 20 x 30" in refused(tmp_path / "v.tif", "pages of different kinds")


def test_a_damaged_file_is_refused(tmp_path):
    path = write(tmp_path / "v.tif", volume(), "tiff_lzw")
    data = bytearray(path.read_bytes())
    data[2000:2300] = bytes(300)
    path.write_bytes(data)
    refused(path, "cannot read volume")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(write(tmp_path / "w.tif", volume()).read_bytes()[: -24 * 30 * 2 * 3])
    refused(cut, "cannot read volume|has pages")


def test_the_label_map_of_a_slice(tmp_path):
    labels = volume()[:1]
    path = write(tmp_path / "s.tif", labels)
    np.testing.assert_array_equal(read_label_slice(path), labels[0])
    assert label_slice(path).shape == (1, 24, 30)
    with pytest.raises(UserError, match="has 20 pages, and its name says that it is one slice"):
        label_slice(write(tmp_path / "v.tif", volume()))


@pytest.mark.parametrize("value", [[1], [99, 1], [0, 101], "ab", ["a", 3], None, [5, 5]])
def test_percentiles_are_two_in_order(value):
    assert check_percentiles("data.window", [0, 99.5]) == (0.0, 99.5)
    with pytest.raises(UserError, match=r"data\.window"):
        check_percentiles("data.window", value)
