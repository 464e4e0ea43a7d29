"""Volumes as pictures: three orthogonal cuts, and a strip of slices, with outlines of the objects.

All planes are drawn to scale: a voxel that is three times as deep as wide is three times as long. A true and
a found object that match have one colour; objects that are missed or false are white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from polymask.data.images import resize_image, resize_mask
from polymask.families.volumes.colours import ALONE
from polymask.families.volumes.scene import Scene, Side
from polymask.reporting.canvas import WHITE, inner_border, text_bar

_VIEW_SIDE = 640  # pixels of the longer side of three cuts together
_NUM_TILES = 6  # of a strip
_GAP = 4
_LEAST_SCALE = 40  # pixels of the place for a scale
_DARK = 32
_TINT = 0.18
_CROSS = 0.4  # weight of the lines that show where the other planes cut
_FONT, _TEXT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def volume_panel(scene: Scene) -> np.ndarray:
    """Draw a frame: three cuts with the true and with the found objects, and below them slices with both.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    place = scene.middle()
    panel = _beside([orthogonal_views(scene, side, place) for side in scene.sides])
    width = panel.shape[1]
    above, below = (side.heading.partition(":")[0] for side in scene.sides)
    return np.vstack(
        [panel, text_bar(f"slices, {above} above and {below} below", width), slice_strip(scene, width)]
    )


def orthogonal_views(scene: Scene, side: Side, place: tuple[int, int, int]) -> np.ndarray:
    """Draw the planes xy, zy (to the right) and xz (below) through a voxel, below a heading.

    Args:
        scene: The frame.
        side: What is outlined.
        place: The voxel: slice, row and column.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    shape = scene.found.shape
    depth, height, width = _view_sizes(scene)
    planes = []
    for axis, size in enumerate([(height, width), (depth, width), (depth, height)]):
        labels = None if side.labels is None else _cut(side.labels, shape, axis, place)
        plane = _plane(_cut(scene.volume, shape, axis, place), labels, size, side.colours)
        rest = [index for index in range(3) if index != axis]
        planes.append(_cross(plane, [(place[index] + 0.5) / shape[index] for index in rest]))
    xy, xz, zy = planes[0], planes[1], np.ascontiguousarray(planes[2].transpose(1, 0, 2))
    xy, xz, zy = (
        _write(plane, f"{name} = {at}")
        for plane, name, at in zip((xy, xz, zy), ("z", "y", "x"), place, strict=True)
    )
    corner = _scale(depth, width / shape[2], scene.voxel_size)
    lower = _beside([xz, corner])
    picture = np.vstack([_beside([xy, zy]), _rule(lower.shape[1]), lower])
    return np.vstack([text_bar(side.heading, picture.shape[1]), picture])


def slice_strip(scene: Scene, width: int) -> np.ndarray:
    """Draw slices side by side, with the true objects above and the found ones below.

    Args:
        scene: The frame.
        width: Of the picture in pixels.

    Returns:
        (H', `width`, 3) uint8 RGB.
    """
    chosen = _slices(scene)
    _, height, length = scene.found.shape
    tile = (width - (_NUM_TILES - 1) * _GAP) // _NUM_TILES
    ratio = height * scene.spacing[1] / (length * scene.spacing[2])
    size = max(1, round(tile * ratio)), tile
    columns = []
    for z in chosen:
        tiles = []
        for side in scene.sides:
            labels = None if side.labels is None else side.labels[z]
            tiles += [_plane(scene.volume[z], labels, size, side.colours), _rule(tile)]
        columns.append(np.vstack([_write(tiles[0], f"z = {z}"), *tiles[1:-1]]))
    strip = _beside(columns)
    return cv2.copyMakeBorder(strip, 0, 0, 0, width - strip.shape[1], cv2.BORDER_CONSTANT, value=(_DARK,) * 3)


def _slices(scene: Scene) -> list[int]:
    """Return slices that are evenly spread among those that have a truth and show something."""
    known = np.flatnonzero(scene.annotated) if scene.truth is not None else np.arange(len(scene.found))
    both = (scene.found_shapes, scene.true_shapes)
    present = [shapes for shapes in both if shapes is not None and shapes.voxels.any()]
    first = min((shapes.first[shapes.voxels > 0, 0].min() for shapes in present), default=0)
    stop = max((shapes.stop[:, 0].max() for shapes in present), default=len(scene.found))
    showing = known[(known >= first) & (known < stop)]
    chosen = showing if len(showing) else known
    return chosen[np.unique(np.linspace(0, len(chosen) - 1, _NUM_TILES).round().astype(int))].tolist()


def _view_sizes(scene: Scene) -> tuple[int, int, int]:
    """Return depth, height and width of the planes in pixels."""
    depth, height, width = np.array(scene.found.shape) * scene.spacing
    factor = _VIEW_SIDE / max(depth + width, depth + height)
    z, y, x = (max(1, round(factor * edge)) for edge in (depth, height, width))
    return z, y, x


def _cut(volume: np.ndarray, shape: Sequence[int], axis: int, place: Sequence[int]) -> np.ndarray:
    """Return the plane through voxel `place` of a volume of `shape`, across `axis`."""
    at = place[axis] * volume.shape[axis] // shape[axis]  # the volume may be of another size
    return np.ascontiguousarray(volume.take(at, axis))


def _plane(
    image: np.ndarray, labels: np.ndarray | None, size: tuple[int, int], colours: np.ndarray
) -> np.ndarray:
    """Return a plane at (height, width) `size`: tinted and outlined objects on grey, (H, W, 3) uint8."""
    drawn = cv2.cvtColor(resize_image(np.ascontiguousarray(image), size), cv2.COLOR_GRAY2RGB)
    if labels is None:
        return drawn
    numbers = resize_mask(np.ascontiguousarray(labels, np.uint16), size)
    # White would hide what is below it: such objects have an outline only.
    tinted = (numbers > 0) & (colours[numbers] != ALONE).any(axis=-1)
    drawn[tinted] = np.rint((1 - _TINT) * drawn[tinted] + _TINT * colours[numbers[tinted]])
    border = inner_border(numbers, max(1, round(max(size) / 500)))
    drawn[border] = colours[numbers[border]]
    return drawn


def _cross(plane: np.ndarray, place: Sequence[float]) -> np.ndarray:
    """Show by dashed lines where the two other planes cut; `place` in shares of height and width."""
    row, column = (int(share * edge) for share, edge in zip(place, plane.shape[:2], strict=True))
    for line in (plane[row, :], plane[:, column]):
        dashes = np.arange(len(line)) // 4 % 2 == 0
        line[dashes] = np.rint((1 - _CROSS) * line[dashes] + _CROSS * 255)
    return plane


def _write(plane: np.ndarray, text: str) -> np.ndarray:
    """Write a few letters into the upper left corner."""
    place = 2 * _GAP, 5 * _GAP
    for colour, thickness in ((0, 0, 0), 3), (WHITE, 1):
        cv2.putText(plane, text, place, _FONT, _TEXT_SCALE, colour, thickness, cv2.LINE_AA)
    return plane


def _scale(side: int, pixels_per_voxel: float, voxel_size: Sequence[float] | None) -> np.ndarray:
    """Return a dark square with a bar of a round length, empty when the size of a voxel is unknown."""
    square = np.full((side, side, 3), _DARK, np.uint8)
    if voxel_size is None or side < _LEAST_SCALE:
        return square
    pixels_per_micrometre = pixels_per_voxel / voxel_size[2]
    longest = (side - 4 * _GAP) / pixels_per_micrometre
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    left, bottom = 2 * _GAP, side - 3 * _GAP
    square[bottom : bottom + _GAP, left : left + round(length * pixels_per_micrometre)] = WHITE
    place = left, bottom - 2 * _GAP
    return cv2.putText(square, f"{length:g} um", place, _FONT, _TEXT_SCALE, WHITE, 1, cv2.LINE_AA)


def _beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Place pictures of one height side by side, with gaps."""
    gap = np.full((len(pictures[0]), _GAP, 3), _DARK, np.uint8)
    pieces = [piece for picture in pictures for piece in (gap, picture)]
    return np.hstack(pieces[1:])


def _rule(width: int) -> np.ndarray:
    return np.full((_GAP, width, 3), _DARK, np.uint8)
