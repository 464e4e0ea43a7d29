"""Masks of single objects, in whatever form they are saved."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from polymask.data.sources.label_maps import read_label_maps


def disc(size: int = 40) -> np.ndarray:
    """A mask (size, size) of booleans."""
    y, x = np.mgrid[:size, :size]
    return (x - 18) ** 2 + (y - 22) ** 2 < 120


def palette_image(indices: np.ndarray, palette: list[int]) -> Image.Image:
    image = Image.new("P", indices.shape[::-1])
    image.putdata(indices.astype(int).flatten().tolist())
    image.putpalette(palette)
    return image


def rgba(mask: np.ndarray) -> Image.Image:
    opaque = np.full(mask.shape, 255)
    return Image.fromarray(np.stack([255 * mask] * 3 + [opaque], axis=-1).astype(np.uint8))


MASK_FORMS = {
    "0_255": lambda mask: Image.fromarray((255 * mask).astype(np.uint8)),
    "0_1": lambda mask: Image.fromarray(mask.astype(np.uint8)),
    "one_bit": Image.fromarray,
    "16_bit": lambda mask: Image.fromarray((65535 * mask.astype(np.int64)).astype(np.uint16)),
    "16_bit_0_1": lambda mask: Image.fromarray(mask.astype(np.uint16)),
    "16_bit_0_255": lambda mask: Image.fromarray((255 * mask).astype(np.uint16)),
    "palette_black_white": lambda mask: palette_image(mask, [0, 0, 0, 255, 255, 255]),
    "palette_dark_red": lambda mask: palette_image(mask, [0, 0, 0, 128, 0, 0]),
    "0_2": lambda mask: Image.fromarray((2 * mask).astype(np.uint8)),
    "palette_nearly_black": lambda mask: palette_image(mask, [0, 0, 0, 0, 0, 64]),
    "rgb": lambda mask: Image.fromarray(np.stack([255 * mask] * 3, axis=-1).astype(np.uint8)),
    "rgba": rgba,
    "grey_alpha": lambda mask: rgba(mask).convert("LA"),
}


@pytest.mark.parametrize("form", MASK_FORMS)
def test_every_form_of_a_mask_gives_the_object_that_was_meant(tmp_path, form):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    MASK_FORMS[form](disc()).save(tmp_path / "labels" / "a" / "object.png")
    (record,), _ = read_label_maps(tmp_path)
    (mask,) = record.read_objects((40, 40)).to_target()["masks"]
    np.testing.assert_array_equal(mask, disc())
