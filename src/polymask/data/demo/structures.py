"""What can be seen inside a synthetic lesion: pigment network, globules, veil, vessels, crust and so on.

A lesion is painted on a square canvas in its own coordinates: the centre is (0, 0), one unit is the mean
lesion radius. Each structure is a function that draws itself onto a `Canvas`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]

SIDE = 192  # canvas pixels per side
EXTENT = 1.6  # lesion radii from the centre to a canvas side
_SCALE = SIDE / (2 * EXTENT)  # canvas pixels per lesion radius
_AXIS = ((np.arange(SIDE, dtype=np.float32) + 0.5) / _SCALE - EXTENT).astype(np.float32)
COORDINATES = np.meshgrid(_AXIS, _AXIS)  # x and y of each canvas pixel in lesion radii


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A lesion in its own coordinates.

    Attributes:
        colour: (SIDE, SIDE, 3), RGB in [0, 1].
        inside: (SIDE, SIDE), distance to the border in lesion radii, positive inside the lesion.
        opacity: (SIDE, SIDE), how much of the skin the lesion hides, in [0, 1], before the border fades.
        softness: Width of the fading border in lesion radii.
        rng: Where the structures draw their chances from.
    """

    colour: Array
    inside: Array
    opacity: Array
    softness: float
    rng: np.random.Generator


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Return noise (height, width) in about [-1, 1] that varies over 1/`cells` of a side."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def blend(image: Array, weight: Array, colour: Colour | Array) -> None:
    """Mix `colour` (RGB in [0, 1]) into `image` (H, W, 3) in place with `weight` (H, W) in [0, 1]."""
    image += weight[..., None] * (np.asarray(colour, np.float32) - image)


def ramp(values: Array, low: float, high: float) -> Array:
    """Return 0 up to `low`, 1 from `high` on (which may be the smaller one), smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def as_weight(paper: ArrayLike) -> Array:
    """Turn what cv2 drew with grey 255 into a weight in [0, 1]."""
    return np.asarray(paper, np.float32) / 255


def _mark(canvas: Canvas, weight: Array, colour: Colour) -> None:
    """Mix a structure into the colours and make the lesion opaque there."""
    blend(canvas.colour, weight, colour)
    np.maximum(canvas.opacity, weight, out=canvas.opacity)


def _between_holes(canvas: Canvas, spacing: float, jitter: float) -> Array:
    """Return the distance to the next hole of a jittered honeycomb: 0 in a hole, 1 on the lines between."""
    steps = np.arange(-EXTENT, EXTENT, spacing)
    x, y = np.meshgrid(steps, np.arange(-EXTENT, EXTENT, spacing * 0.87))
    x[::2] += spacing / 2
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    points += canvas.rng.uniform(-jitter, jitter, points.shape) * spacing
    column, row = np.clip((points + EXTENT) * _SCALE, 0, SIDE - 1).astype(int).T
    paper = np.ones((SIDE, SIDE), np.uint8)
    paper[row, column] = 0
    return cv2.distanceTransform(paper, cv2.DIST_L2, 3) / np.float32(0.58 * spacing * _SCALE)


def spots(
    canvas: Canvas,
    *,
    colour: Colour,
    count: tuple[int, int],
    size: tuple[float, float],
    where: tuple[float, float] = (0.0, 0.85),
) -> None:
    """Globules, dots, milia-like cysts, comedo-like openings, nests, lacunae: oval spots of one colour.

    Args:
        canvas: What is drawn on.
        colour: RGB in [0, 1].
        count: Least and greatest number of spots.
        size: Range of the spots' radii.
        where: Range of the distance from the lesion's centre.
    """
    rng = canvas.rng
    num = rng.integers(*count, endpoint=True)
    angle, way = rng.uniform(0, 2 * np.pi, num), np.sqrt(rng.uniform(where[0] ** 2, where[1] ** 2, num))
    places = (np.stack([np.cos(angle), np.sin(angle)], axis=1) * way[:, None] + EXTENT) * _SCALE
    axes = np.maximum(rng.uniform(*size, num)[:, None] * rng.uniform(0.75, 1.25, (num, 2)) * _SCALE, 1)
    paper = np.zeros((SIDE, SIDE), np.uint8)
    for (x, y), (a, b), turn in zip(places, axes, rng.uniform(0, 180, num), strict=True):
        cv2.ellipse(paper, (int(x), int(y)), (round(a), round(b)), turn, 0, 360, 255, -1, cv2.LINE_AA)
    weight = as_weight(cv2.GaussianBlur(paper, (0, 0), 0.9))
    _mark(canvas, 0.85 * weight * ramp(canvas.inside, -0.02, 0.06), colour)


def network(canvas: Canvas, *, colour: Colour, jitter: float, strength: float, inner: float = 0.0) -> None:
    """Pigment network: a honeycomb of lines, from `inner` of the way outwards, patchy when jittered."""
    lines = ramp(_between_holes(canvas, canvas.rng.uniform(0.13, 0.18), jitter), 0.5, 0.95)
    patchy = ramp(smooth_noise(canvas.rng, (SIDE, SIDE), 4), -1.2 + 2 * jitter, 0.4)
    ring = ramp(canvas.inside, 1 - inner + 0.1, 1 - inner - 0.2) if inner else np.float32(1)
    weight = strength * lines * patchy * ring * ramp(canvas.inside, -0.05, 0.2)
    _mark(canvas, weight, colour)


def patch(
    canvas: Canvas,
    *,
    colour: Colour,
    size: tuple[float, float],
    off: float,
    strength: float,
) -> None:
    """Blue-white veil, black blotch, regression, scar: one cloudy patch `off` radii from the centre."""
    rng = canvas.rng
    x, y = COORDINATES
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(*size)
    way = rng.uniform(0.5, 1) * off
    away = np.hypot(x - way * np.cos(angle), y - way * np.sin(angle))
    cloud = radius - away + 0.45 * radius * smooth_noise(rng, (SIDE, SIDE), 11)
    _mark(canvas, strength * ramp(cloud, -0.12, 0.16) * ramp(canvas.inside, 0, 0.12), colour)


def crust(canvas: Canvas) -> None:
    """Yellow-white scale with rough flakes, scattered over the lesion."""
    rng = canvas.rng
    patches = ramp(smooth_noise(rng, (SIDE, SIDE), 7), 0.0, 0.35)
    flakes = 0.6 + 0.4 * smooth_noise(rng, (SIDE, SIDE), 48)
    weight = np.clip(patches * flakes, 0, 1) * ramp(canvas.inside, 0.08, 0.3)
    _mark(canvas, 0.85 * weight, (0.93, 0.87, 0.72))


def strawberry(canvas: Canvas) -> None:
    """Red pseudo-network: red between pale follicle openings, each with a small keratin plug."""
    far = _between_holes(canvas, canvas.rng.uniform(0.2, 0.26), 0.25)
    edge = ramp(canvas.inside, 0.0, 0.25)
    _mark(canvas, 0.55 * edge * ramp(far, 0.35, 0.8), (0.68, 0.25, 0.24))
    _mark(canvas, 0.75 * edge * ramp(far, 0.3, 0.12), (0.93, 0.82, 0.68))


def fissures(canvas: Canvas) -> None:
    """Cerebriform furrows: dark winding lines where a smooth field crosses zero."""
    field = np.abs(smooth_noise(canvas.rng, (SIDE, SIDE), 9))
    _mark(canvas, 0.6 * ramp(field, 0.13, 0.03) * ramp(canvas.inside, 0.05, 0.2), (0.27, 0.18, 0.13))


def vessels(canvas: Canvas) -> None:
    """Arborising vessels: sharp red trunks from the rim inwards that branch into finer ones."""
    rng = canvas.rng
    paper = np.zeros((SIDE, SIDE), np.uint8)
    angles = rng.uniform(0, 2 * np.pi, rng.integers(2, 5))
    twigs = [(1.05 * np.array([np.cos(a), np.sin(a)]), a + np.pi + rng.uniform(-0.7, 0.7), 0) for a in angles]
    while twigs:
        start, heading, depth = twigs.pop()
        turns = heading + np.cumsum(rng.normal(0, 0.22, 18 - 5 * depth))
        path = start + 0.07 * np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1), axis=0)
        points = np.rint((path + EXTENT) * _SCALE).astype(np.int32)
        cv2.polylines(paper, [points], False, (230, 190, 150)[depth], (2, 1, 1)[depth], cv2.LINE_AA)
        forks = rng.choice(len(path), (3, 2, 0)[depth], replace=False)
        twigs += [(path[i], turns[i] + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1), depth + 1) for i in forks]
    _mark(canvas, as_weight(paper) * ramp(canvas.inside, -0.03, 0.06), (0.70, 0.16, 0.18))
