from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from polymask.families.instances.drawing import (
    add_caption,
    draw_found,
    draw_true,
    instance_panel,
    overlay_instances,
)
from polymask.families.instances.labels import Label, write_labels
from polymask.reporting.canvas import PALETTE
from polymask.structures import rle
from polymask.structures.crops import crop
from polymask.structures.objects import FoundObjects, TrueObjects

NAMES = ["Fiber", "Fragment", "Film"]


def found(masks: Sequence[np.ndarray], labels: Sequence[int], size: tuple[int, int]) -> FoundObjects:
    codes = [rle.encode(mask) for mask in masks]
    return FoundObjects(
        id="a",
        size=size,
        boxes=np.array([rle.box(code) for code in codes], np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.linspace(0.99, 0.5, len(codes)).astype(np.float32),
        masks=codes,
    )


def true(masks: Sequence[np.ndarray], labels: Sequence[int], crowd: Sequence[bool]) -> TrueObjects:
    objects = found(masks, labels, masks[0].shape)
    return TrueObjects(
        size=objects.size,
        boxes=objects.boxes,
        labels=objects.labels,
        masks=objects.masks,
        crowd=np.array(crowd),
    )


def disc(size: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def grey(size: tuple[int, int], value: int = 100) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_contour_tint_and_nothing_else() -> None:
    size = (300, 400)
    mask = np.zeros(size, bool)
    mask[100:180, 150:250] = True
    drawn = draw_true(grey(size), true([mask], [0], [False]), ["particle"])  # one class: no words
    colour = PALETTE[1].astype(float)
    np.testing.assert_array_equal(drawn[~mask], 100)
    tinted = np.rint(0.75 * 100 + 0.25 * colour)
    np.testing.assert_array_equal(drawn[140, 200], tinted)
    for y, x in ((100, 200), (179, 200), (140, 150), (140, 249), (100, 150)):
        np.testing.assert_array_equal(drawn[y, x], colour)
    assert {tuple(pixel) for pixel in drawn[mask]} == {tuple(colour), tuple(tinted)}


def test_classes_have_colours_whatever_the_object() -> None:
    size = (200, 400)
    masks = [disc(size, 100, x, 30) for x in (60, 140, 220, 300)]
    labels = [2, 0, 2, 1]
    drawn = draw_found(grey(size), found(masks, labels, size), NAMES)
    for mask, label in zip(masks, labels, strict=True):
        pixels = {tuple(pixel) for pixel in drawn[mask]}
        assert tuple(PALETTE[1 + label]) in pixels
        others = {tuple(PALETTE[1 + other]) for other in range(3) if other != label}
        assert not pixels & others


def test_neighbours_of_one_class_differ_in_colour() -> None:
    size = (300, 300)
    masks = []
    for y in range(0, 300, 20):
        for x in range(0, 300, 20):
            mask = np.zeros(size, bool)
            mask[y : y + 20, x : x + 20] = True
            masks.append(mask)
    order = np.random.default_rng(0).permutation(len(masks))
    truth = true([masks[index] for index in order], [0] * len(masks), [False] * len(masks))
    drawn = draw_true(grey(size), truth, ["cell"])
    corners = drawn[::20, ::20].astype(int)  # each tile's first pixel is of its contour
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        first, second = corners[dy:, dx:], corners[: 15 - dy, : 15 - dx]
        assert (first != second).any(axis=-1).all()


def test_contours_of_objects_that_overlap_are_whole() -> None:
    size = (300, 300)
    masks = [disc(size, 150, 120, 60), disc(size, 150, 180, 60), disc(size, 150, 150, 20)]
    drawn = draw_true(grey(size), true(masks, [0, 1, 2], [False] * 3), NAMES)
    for mask, label in zip(masks, range(3), strict=True):
        rim = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
        others = {tuple(PALETTE[1 + other]) for other in range(3)}
        # Where two contours cross, one of them is below; the words hide some more.
        own = (drawn[rim] == PALETTE[1 + label]).all(axis=1).mean()
        any_contour = np.mean([tuple(pixel) in others for pixel in drawn[rim]])
        assert own > 0.6
        assert any_contour > 0.75


def test_crowds_are_grey() -> None:
    size = (200, 200)
    drawn = draw_true(grey(size), true([disc(size, 100, 100, 60)], [1], [True]), NAMES)
    assert np.ptp(drawn.astype(int), axis=-1).max() == 0  # no colour at all
    assert (drawn != 100).any()


@pytest.mark.parametrize(
    ("size", "factor"), [((64, 48), 8), ((360, 300), 2), ((640, 700), 1), ((900, 2000), 1)]
)
def test_small_images_are_enlarged_by_whole_factors(size: tuple[int, int], factor: int) -> None:
    masks = [disc(size, size[0] / 2, size[1] / 2, 9)]
    drawn = overlay_instances(grey(size), found(masks, [0], size), NAMES)
    picture = drawn[-size[0] * factor :]
    spare = (picture.shape[1] - size[1] * factor) // 2
    picture = picture[:, spare : spare + size[1] * factor]
    assert drawn.shape[0] - picture.shape[0] < 60  # the heading
    changed = (picture != 100).any(axis=-1)
    whole = np.kron(masks[0], np.ones((factor, factor), bool))
    assert changed[whole].all()
    assert picture.shape[:2] == (size[0] * factor, size[1] * factor)


def test_thin_fibres_stay_whole_when_reduced() -> None:
    size = (3000, 4000)
    fibre = np.zeros(size, np.uint8)
    cv2.polylines(fibre, [np.array([[100, 200], [1500, 2500], [3800, 300]])], False, 1)
    panel = instance_panel(grey(size), None, found([fibre], [0], size), ["fibre"])
    right = panel[60:, panel.shape[1] // 2 :].astype(int)
    coloured = (np.abs(right - PALETTE[1]).sum(axis=-1) < 10).astype(np.uint8)
    areas = cv2.connectedComponentsWithStats(coloured)[2][1:, cv2.CC_STAT_WIDTH]
    assert areas.max() == pytest.approx(3700 * 960 / 4000, abs=3)


@pytest.mark.parametrize("size", [(64, 64), (360, 300), (960, 1364), (4000, 200)])
def test_panels_fit_a_screen_and_do_not_fail(size: tuple[int, int]) -> None:
    masks = [disc(size, size[0] / 3, size[1] / 2, 5), disc(size, size[0] / 2, size[1] / 2, 12)]
    prediction, truth = found(masks, [0, 2], size), true(masks, [0, 2], [False, True])
    for case in (truth, None):
        panel = add_caption(instance_panel(grey(size), case, prediction, NAMES), "a | Dice 1.000")
        assert panel.shape[1] <= 2 * 960 + 20
        assert panel.shape[0] <= 960 + 100
        assert panel.dtype == np.uint8


def test_nothing_found_is_a_picture_too() -> None:
    image = np.random.default_rng(0).integers(0, 255, (700, 640, 3)).astype(np.uint8)
    drawn = overlay_instances(image, found([], [], (700, 640)), NAMES)
    np.testing.assert_array_equal(drawn[-700:, 2:-2], image)


def scattered(count: int, size: tuple[int, int], radius: tuple[float, float]) -> list[Label]:
    rng = np.random.default_rng(count)
    labels = []
    for index in range(count):
        mask = disc(size, rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(*radius))
        colour = (10 + index, 200, 255 - index)
        labels.append(Label(crop(rle.encode(mask)), colour, (f"Fragment 0.{index:02d}", f"0.{index:02d}")))
    return labels


@pytest.mark.parametrize(
    ("count", "size"), [(12, (640, 640)), (60, (640, 640)), (150, (500, 600)), (9, (64, 64))]
)
def test_words_hide_neither_objects_nor_words(count: int, size: tuple[int, int]) -> None:
    labels = scattered(count, size, (3, 25))
    image = grey(size, 77)
    write_labels(image, labels)
    words = (image != 77).any(axis=-1)
    owner = np.zeros(size, int)
    for number, label in enumerate(labels, start=1):
        owner[label.crop.window][label.crop.mask] = number
    for number, label in enumerate(labels, start=1):
        area = label.crop.mask.sum()
        assert words[owner == number].sum() <= 0.2 * area + 1e-9
        alone = grey((200, 640), 77)
        middle = Label(crop(rle.encode(disc((200, 640), 100, 320, 5))), label.colour, label.texts)
        both = []
        for text in label.texts:  # what each text looks like where nothing else is
            alone[:] = 77
            write_labels(alone, [middle._replace(texts=(text,))])
            both.append(int((alone == label.colour).all(axis=-1).sum()))
        shown = int((image == label.colour).all(axis=-1).sum())
        assert shown in (0, *both)


def test_the_best_scores_are_written_when_not_all_can_be() -> None:
    size = (200, 200)
    labels = scattered(80, size, (4, 9))
    image = grey(size, 77)
    write_labels(image, labels)
    shown = [bool((image == label.colour).all(axis=-1).any()) for label in labels]
    assert shown[0]
    assert 10 < sum(shown) < 80
    assert sum(shown[:40]) > sum(shown[40:])


def test_no_words_where_objects_fill_the_image() -> None:
    size = (120, 120)
    labels = []
    for y in range(0, 120, 6):
        for x in range(0, 120, 6):
            mask = np.zeros(size, bool)
            mask[y : y + 6, x : x + 6] = True
            labels.append(Label(crop(rle.encode(mask)), (0, 255, 0), ("cell 0.90", "0.90")))
    image = grey(size, 77)
    write_labels(image, labels)
    np.testing.assert_array_equal(image, 77)


def test_words_name_class_and_score() -> None:
    """The longer text is written where there is room, and letters stand on the colour of the object."""
    size = (640, 640)
    masks = [disc(size, 320, 320, 40)]
    drawn = draw_found(grey(size), found(masks, [1], size), NAMES)
    box = cv2.boundingRect(((drawn != 100).any(axis=-1) & ~masks[0]).astype(np.uint8))
    (width, height), _ = cv2.getTextSize("Fragment 0.99", cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    assert width <= box[2] <= width + 8
    assert height <= box[3] <= height + 12
    patch = drawn[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
    assert (patch == PALETTE[2]).all(axis=-1).mean() > 0.4
    assert (patch.astype(int).sum(axis=-1) < 150).sum() > 30  # black on orange
