from __future__ import annotations

import numpy as np
import pytest

from polymask.families.volumes.colours import ALONE, object_colours, owners
from polymask.families.volumes.drawing import orthogonal_views, slice_strip, volume_panel
from polymask.families.volumes.scene import Scene
from polymask.families.volumes.tables import measure_shapes

SHAPE = (8, 40, 60)


def boxes(*places: tuple[slice, slice, slice], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, np.uint16)
    for number, place in enumerate(places, start=1):
        labels[place] = number
    return labels


TRUE = boxes(
    (slice(1, 6), slice(4, 16), slice(4, 20)),
    (slice(2, 7), slice(20, 34), slice(22, 40)),
    (slice(0, 3), slice(5, 12), slice(44, 56)),
)
# The first a bit smaller, the second in halves, of which one is more than half; the third is missed.
FOUND = boxes(
    (slice(2, 4), slice(20, 34), slice(22, 40)),
    (slice(4, 7), slice(20, 34), slice(22, 40)),
    (slice(1, 6), slice(5, 16), slice(4, 20)),
    (slice(3, 6), slice(2, 6), slice(40, 50)),
)


def scene(**changed: object) -> Scene:
    volume = np.random.default_rng(0).integers(40, 200, SHAPE).astype(np.uint8)
    values = {
        "volume": volume,
        "found": FOUND,
        "truth": TRUE,
        "annotated": np.ones(8, bool),
        "voxel_size": None,
    }
    return Scene(**(values | changed))  # type: ignore[arg-type]


def shares(picture: np.ndarray, colour: np.ndarray | tuple[int, ...]) -> float:
    return float((picture == np.array(colour)).all(axis=-1).mean())


def test_an_owner_covers_more_than_half_in_annotated_slices() -> None:
    assert owners(FOUND, TRUE, np.ones(8, bool), 3).tolist() == [0, 3, 2, 0]
    assert owners(FOUND, TRUE, np.arange(8) < 5, 3).tolist() == [0, 3, 1, 0]
    half = np.roll(TRUE, 2, axis=0) * (TRUE != 2)  # of the third object, exactly 1 of 3 slices
    assert owners(half, TRUE, np.ones(8, bool), 3).tolist() == [0, 1, 0, 0]
    joined = (TRUE > 0).astype(np.uint16)
    assert owners(joined, TRUE, np.ones(8, bool), 3).tolist() == [0, 1, 1, 1]


def test_matching_objects_have_one_colour_and_others_are_white() -> None:
    true, found = scene().sides
    assert true.heading == "true: 3, 1 missed (white)"
    assert found.heading == "found: 4, 2 false (white)"
    assert (true.colours[[2, 1]] == found.colours[[2, 3]]).all()
    assert (true.colours[3] == ALONE).all()
    assert (found.colours[[1, 4]] == ALONE).all()
    assert (true.colours[0] == 0).all()
    assert (found.colours[0] == 0).all()


def test_an_object_over_several_has_the_colour_of_the_largest() -> None:
    true, found = scene(found=(TRUE > 0).astype(np.uint16)).sides
    assert true.heading == "true: 3"
    assert found.heading == "found: 1"
    largest = np.bincount(TRUE.ravel())[1:].argmax() + 1
    assert (found.colours[1] == true.colours[largest]).all()
    assert len(np.unique(true.colours[1:], axis=0)) == 3


def test_neighbours_have_different_colours() -> None:
    places = [
        (slice(z, z + 2), slice(y, y + 8), slice(x, x + 10))
        for z in range(0, 8, 2)
        for y in range(0, 40, 8)
        for x in range(0, 60, 10)
    ]
    labels = boxes(*places)
    spacing = 4, 1, 0.8  # edges of all objects are 8 long
    shapes = measure_shapes(labels, len(places))
    table = object_colours(shapes, spacing)
    centres = shapes.centres * spacing
    for index, centre in enumerate(centres):
        away = np.linalg.norm(centres - centre, axis=1)
        near = np.flatnonzero((away > 0) & (away < 8.5))
        assert not (table[near + 1] == table[index + 1]).all(axis=1).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.5, 0.25, 0.25)])
def test_views_are_to_scale(spacing: tuple[float, float, float]) -> None:
    """A white volume without objects shows how large the three planes are."""
    empty = np.zeros(SHAPE, np.uint16)
    white = np.full(SHAPE, 255, np.uint8)
    shown = scene(volume=white, found=empty, truth=empty, voxel_size=spacing)
    views = orthogonal_views(shown, shown.sides[0], shown.middle())
    bright = (views == 255).all(axis=-1)
    bright[: -(len(views) - 30)] = False
    last = bright[-20:].any(axis=0)  # the plane xz, of the width of xy
    depth, height, width = np.array(SHAPE) * spacing
    factor = 640 / max(depth + width, depth + height)
    right = bright[40:60].any(axis=0)  # xy and zy, with a gap
    assert right.sum() == pytest.approx(factor * (width + depth), abs=2)
    below = bright[:, 40:60].any(axis=1)
    assert below.sum() == pytest.approx(factor * (height + depth), abs=2)
    assert last[: round(factor * width) - 2].all()


def test_views_show_an_object_in_all_planes_and_strips_all_slices() -> None:
    only = boxes((slice(2, 6), slice(10, 30), slice(15, 45)))
    shown = scene(volume=np.zeros(SHAPE, np.uint8), truth=only, found=only)
    colour = shown.sides[0].colours[1]
    assert shown.middle() == (4, 20, 30)
    views = orthogonal_views(shown, shown.sides[0], shown.middle())
    height = round(640 / 68 * 40)
    for part in (views[40:height, :560], views[40:height, 580:], views[height + 60 :, :560]):
        assert shares(part, colour) > 0.002
    strip = slice_strip(shown, 600)
    assert strip.shape[1] == 600
    assert shares(strip, colour) > 0.01


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"truth": None, "annotated": np.zeros(8, bool)},
        {"found": np.zeros(SHAPE, np.uint16)},
        {"truth": np.zeros(SHAPE, np.uint16), "found": np.zeros(SHAPE, np.uint16)},
        {"truth": np.where(np.arange(8)[:, None, None] == 4, TRUE, 0), "annotated": np.arange(8) == 4},
        {"voxel_size": (0.29, 0.1, 0.1)},
        {"volume": np.zeros((8, 20, 30), np.uint8)},
    ],
    ids=["plain", "no truth", "nothing found", "empty", "one slice", "micrometres", "resized"],
)
def test_any_frame_can_be_drawn(changed: dict[str, object]) -> None:
    picture = volume_panel(scene(**changed))
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 1000
    assert picture.std() > 5


def test_a_scale_is_drawn_only_where_voxels_have_a_size() -> None:
    plain, sized = scene(), scene(voxel_size=(1.0, 1.0, 1.0))
    place = plain.middle()
    corner = np.s_[-60:, -60:]
    assert (orthogonal_views(plain, plain.sides[0], place)[corner] == 32).all()
    assert (orthogonal_views(sized, sized.sides[0], place)[corner] == 255).any()
