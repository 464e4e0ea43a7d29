from __future__ import annotations

import cv2
import numpy as np
import pytest

from polymask.reporting import canvas as drawing
from polymask.reporting.canvas import PALETTE, draw_outlines, overlay_mask, prediction_panel

GREEN, MAGENTA = (0, 255, 0), (255, 0, 255)


def noise(height: int, width: int) -> np.ndarray:
    # Below 200, so that no pixel is green or magenta by chance.
    return np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)


def equals(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image == colour).all(axis=-1)


def border_by_loop(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels of an object that have another label, or the outside, within `width` in any direction."""
    height, length = labels.shape
    found = np.zeros(labels.shape, bool)
    for row, column in np.argwhere(labels > 0):
        for y in range(row - width, row + width + 1):
            for x in range(column - width, column + width + 1):
                inside = 0 <= y < height and 0 <= x < length
                found[row, column] |= not inside or labels[y, x] != labels[row, column]
    return found


def touching_objects() -> np.ndarray:
    mask = np.zeros((40, 50), np.int64)
    mask[5:20, 8:20] = 1
    mask[5:20, 20:33] = 2  # touches object 1
    mask[30:40, 40:50] = 3  # cut by the image
    mask[25, 5] = 4
    return mask


def test_palette_holds_okabe_ito_and_keeps_the_first_ten_apart():
    assert PALETTE.shape == (256, 3)
    assert PALETTE.dtype == np.uint8
    colours = {tuple(colour) for colour in PALETTE[:8].tolist()}
    assert {(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)} <= colours
    assert {(240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)} <= colours
    lab = cv2.cvtColor(PALETTE[None, :10].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[~np.eye(10, dtype=bool)]
    assert distances.min() > 20  # 2.3 is just noticeable
    assert len(np.unique(PALETTE, axis=0)) == 256


def test_overlay_changes_only_labelled_pixels_and_mixes_by_alpha():
    image, mask = noise(40, 50), touching_objects()
    mask[0:3, 40:50] = 255
    mask[0:3, 0:3] = -1
    before = image.copy()
    drawn = overlay_mask(image, mask, alpha=0.25)
    labelled = np.isin(mask, (1, 2, 3, 4))
    assert np.array_equal(drawn[~labelled], image[~labelled])
    assert np.array_equal(image, before)
    border = border_by_loop(np.where(labelled, mask, 0), 1)
    assert np.array_equal(drawn[border], PALETTE[mask[border]])
    interior = labelled & ~border
    expected = 0.75 * image[interior] + 0.25 * PALETTE[mask[interior]]
    assert np.abs(drawn[interior] - expected).max() <= 0.5 + 1e-4


def test_overlay_with_own_palette_starts_over_without_its_background_colour():
    palette = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0]], np.uint8)
    mask = np.array([[0, 1, 2, 3, 4, 300]])
    drawn = overlay_mask(np.full((1, 6, 3), 7, np.uint8), mask, palette, alpha=1)
    red, green = [250, 0, 0], [0, 250, 0]
    assert drawn[0].tolist() == [[7, 7, 7], red, green, red, green, green]


@pytest.mark.parametrize(
    "mask", [np.zeros((20, 30), np.int64), np.full((20, 30), 255), np.zeros((20, 30), bool)]
)
def test_masks_without_objects_leave_the_image_as_it_is(mask):
    image = noise(20, 30)
    assert np.array_equal(overlay_mask(image, mask), image)
    assert np.array_equal(draw_outlines(image, mask, mask), image)


def test_a_bool_mask_equals_class_one():
    image, mask = noise(40, 50), touching_objects() == 1
    assert np.array_equal(overlay_mask(image, mask), overlay_mask(image, mask.astype(np.int64)))


def test_outlines_lie_on_the_border_of_their_mask():
    image, mask = noise(40, 50), touching_objects()
    drawn = draw_outlines(image, None, mask)
    border = border_by_loop(mask, 1)
    assert np.array_equal(equals(drawn, MAGENTA), border)
    assert np.array_equal(drawn[~border], image[~border])


def test_true_and_predicted_outlines_both_show_where_they_agree_and_where_they_differ():
    image, mask = noise(40, 50), touching_objects()
    agreeing = draw_outlines(image, mask, mask)
    assert np.array_equal(equals(agreeing, MAGENTA), border_by_loop(mask, 1))
    assert np.array_equal(equals(agreeing, GREEN), border_by_loop(mask, 2) & ~border_by_loop(mask, 1))
    missed = draw_outlines(image, mask, np.zeros_like(mask))
    assert np.array_equal(equals(missed, GREEN), border_by_loop(mask, 2))
    assert not equals(missed, MAGENTA).any()


def test_outlines_grow_with_the_image():
    for side, width in ((100, 1), (600, 2), (1200, 4)):
        mask = np.zeros((side, side), np.int64)
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
        row = draw_outlines(np.zeros((side, side, 3), np.uint8), None, mask)[3 * side // 8]
        assert equals(row, MAGENTA).sum() == 2 * width  # left and right side of the square


def test_a_mask_of_another_size_is_refused():
    image, mask = noise(20, 30), np.zeros((30, 20), np.int64)
    for draw in (overlay_mask, lambda i, m: draw_outlines(i, None, m), lambda i, m: draw_outlines(i, m, m)):
        with pytest.raises(ValueError, match=r"\(30, 20\).*\(20, 30, 3\)"):
            draw(image, mask)
    with pytest.raises(ValueError, match="resize the mask"):
        prediction_panel(image, None, mask, "")


def find(panel: np.ndarray, tile: np.ndarray) -> tuple[int, int] | None:
    """Where `tile` lies in `panel` pixel for pixel: (row, column)."""
    height, width = tile.shape[:2]
    for row in range(panel.shape[0] - height + 1):
        for column in np.flatnonzero((panel[row, : panel.shape[1] - width + 1] == tile[0, 0]).all(axis=-1)):
            if np.array_equal(panel[row : row + height, column : column + width], tile):
                return row, int(column)
    return None


def test_panel_shows_image_overlay_and_outlines_side_by_side():
    image = noise(300, 400)  # within the sizes that are neither enlarged nor reduced
    true = np.zeros((300, 400), np.int64)
    true[50:150, 60:200] = 1
    predicted = np.roll(true, 20, axis=1)
    panel = prediction_panel(image, true, predicted, "ISIC_1: true mel, predicted nv")
    assert panel.dtype == np.uint8
    tiles = (image, overlay_mask(image, predicted), draw_outlines(image, true, predicted))
    places = [find(panel, tile) for tile in tiles]
    assert None not in places
    rows, columns = zip(*places, strict=True)
    assert len(set(rows)) == 1
    assert columns[0] + 400 <= columns[1]
    assert columns[1] + 400 <= columns[2]
    caption = panel[rows[0] + 300 :]
    assert caption.shape[0] >= 15
    assert caption.max() > 200  # white text
    assert np.median(caption) < 64  # on dark


@pytest.mark.parametrize("shape", [(8, 8), (20, 300), (300, 20), (1, 1), (1500, 2000)])
@pytest.mark.parametrize("caption", ["", "short", "word " * 200, "w" * 2000, "two\nlines"])
def test_panel_of_any_size_has_a_caption_that_fits(shape, caption):
    panel = prediction_panel(noise(*shape), None, np.ones(shape, np.int64), caption)
    assert panel.dtype == np.uint8
    assert 600 <= panel.shape[1] <= 2000
    bar = panel[-20:]
    assert (bar.max() > 150) == bool(caption)
    assert bar[:, -3:].max() < 64  # the text ends before the edge


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_strips_change_nothing(monkeypatch, kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (700, 500, 3), dtype=np.uint8)
    mask = cv2.resize(rng.integers(0, 3, (14, 10), dtype=np.uint8), (500, 700), interpolation=0).astype(kind)
    if kind == np.int32:
        mask *= 700
    whole = drawing.overlay_mask(image, mask), drawing.draw_outlines(image, mask, mask[::-1])
    monkeypatch.setattr(drawing, "_STRIP_PIXELS", 1)
    strips = drawing.overlay_mask(image, mask), drawing.draw_outlines(image, mask, mask[::-1])
    for one, other in zip(whole, strips, strict=True):
        np.testing.assert_array_equal(one, other)


def test_heat_leaves_what_is_cold_and_grows_with_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(40, 50)
    heat = np.zeros((40, 50), np.float32)
    heat[10:20] = np.linspace(0, 1, 50)
    drawn = drawing.overlay_heat(image, heat, alpha=0.5)
    cold = heat == 0
    assert np.array_equal(drawn[cold], image[cold])
    hottest = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    assert abs(drawn[10:20, -1] - (image[10:20, -1] / 2 + hottest / 2)).max() <= 0.5
    monkeypatch.setattr(drawing, "_STRIP_PIXELS", 150)  # three rows at a time
    assert np.array_equal(drawing.overlay_heat(image, heat, alpha=0.5), drawn)
    with pytest.raises(ValueError, match="resize the mask first"):
        drawing.overlay_heat(image, heat[:-1])


def test_a_panel_with_a_map_has_a_fourth_picture_with_the_true_outline() -> None:
    image, true = noise(60, 80), np.zeros((60, 80), np.uint8)
    true[20:40, 20:40] = 1
    plain = prediction_panel(image, true, true, "")
    panel = prediction_panel(image, true, true, "", np.full((60, 80), 0.5, np.float32))
    width = plain.shape[1] // 3
    assert panel.shape == (plain.shape[0], 4 * width, 3)
    assert np.array_equal(panel[: -len(panel) // 5, : 3 * width], plain[: -len(panel) // 5])
    assert equals(panel[:, 3 * width :], GREEN).any()
    unknown = prediction_panel(image, None, true, "", np.full((60, 80), 0.5, np.float32))
    assert not equals(unknown[:, 3 * width :], GREEN).any()
