"""Drawn nuclei in a volume: ellipsoids that may touch, seen as by a fluorescence microscope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]
Shape = tuple[int, int, int]

_DEPTH, _WIDTH = (
    (0.19, 0.27),
    (0.09, 0.125),
)  # radii along z and in the slice, as shares of the volume's sides
_TRIES = 4000
_LARGEST_CUT = 0.1  # share of a nucleus that contact with others may cost
_APART = 1.3  # radii by which nuclei that must not touch are kept apart


@dataclass(frozen=True)
class Nucleus:
    """An ellipsoid.

    Attributes:
        centre: z, y, x in voxels.
        radii: Of its three axes, the first along z.
        angle: By which the other two are turned in the slice, radians.
        brightness: Mean, from 0 to 1.
    """

    centre: np.ndarray
    radii: np.ndarray
    angle: float
    brightness: float

    def distances(self, shape: Shape, *, reach: float = 1.0) -> tuple[Box, np.ndarray]:
        """Return the box around the nucleus, and the distance of its voxels in radii: <= 1 is inside."""
        spans = reach * np.array([self.radii[0], *[self.radii[1:].max()] * 2])
        low = np.floor(self.centre - spans).clip(0).astype(int)
        high = np.minimum(np.ceil(self.centre + spans).astype(int) + 1, shape).clip(low)
        z, y, x = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        z, y, x = (axis - middle for axis, middle in zip((z, y, x), self.centre, strict=True))
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = cos * y + sin * x, cos * x - sin * y
        squares = (z / self.radii[0]) ** 2 + (along / self.radii[1]) ** 2 + (across / self.radii[2]) ** 2
        return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), np.sqrt(squares)


def place_nuclei(shape: Shape, number: int, rng: np.random.Generator, *, touching: bool) -> list[Nucleus]:
    """Return nuclei at random places, fewer where there is no room for so many.

    Args:
        shape: (Z, H, W) in voxels.
        number: How many.
        rng: Draws them.
        touching: Whether nuclei lie against one another; else there is room between any two.
    """
    nuclei: list[Nucleus] = []
    taken = np.zeros(shape, bool)
    for attempt in range(_TRIES):
        if len(nuclei) == number:
            break
        one = _draw(shape, rng)
        box, distance = one.distances(shape, reach=1.0 if touching else _APART)
        inside = distance <= (1.0 if touching else _APART)
        cut = np.count_nonzero(taken[box] & inside) / max(int(np.count_nonzero(inside)), 1)
        # Two of three lie against another one; where none is found for long, any place will do.
        wants_contact = touching and len(nuclei) % 3 > 0 and attempt < _TRIES // 2
        if inside.any() and (0 < cut <= _LARGEST_CUT if wants_contact else cut <= _LARGEST_CUT * touching):
            nuclei.append(one)
            taken[box] |= distance <= 1
    return nuclei


def _draw(shape: Shape, rng: np.random.Generator) -> Nucleus:
    sides = np.array([shape[0], min(shape[1:]), min(shape[1:])])
    radii = sides * np.array([rng.uniform(*_DEPTH), rng.uniform(*_WIDTH), rng.uniform(*_WIDTH)])
    # Some are cut by the first or last slice, none by the border of a slice.
    room = np.array([0.6 * radii[0], *[radii[1:].max()] * 2])
    centre = rng.uniform(room, np.maximum(np.array(shape) - 1 - room, room))
    return Nucleus(centre, radii, float(rng.uniform(0, np.pi)), float(rng.uniform(0.6, 1.0)))


def moved(nuclei: Sequence[Nucleus], shape: Shape, rng: np.random.Generator) -> list[Nucleus]:
    """Return the nuclei some minutes later: each has moved, turned and stretched a little."""
    step = min(shape[1:]) / 128
    result = []
    for one in nuclei:
        centre = one.centre + rng.normal(0, step, 3) * [shape[0] / min(shape[1:]), 1, 1]
        room = np.array([0.6 * one.radii[0], *[one.radii[1:].max()] * 2])
        stretch = rng.normal(1, 0.02)
        result.append(
            Nucleus(
                centre.clip(room, np.maximum(np.array(shape) - 1 - room, room)),
                one.radii * [1, stretch, 1 / stretch],
                one.angle + float(rng.normal(0, 0.1)),
                one.brightness,
            )
        )
    return result


def draw_labels(nuclei: Sequence[Nucleus], shape: Shape) -> np.ndarray:
    """Return (Z, H, W) uint16: 1 + the place in `nuclei` of the nucleus at each voxel, 0 where there is none.

    Where two overlap, the nearer one (in its radii) wins, so that they meet in a flat face.
    """
    labels, nearest = np.zeros(shape, np.uint16), np.ones(shape, np.float32)
    for number, one in enumerate(nuclei, start=1):
        box, distance = one.distances(shape)
        wins = distance <= nearest[box]
        labels[box][wins], nearest[box][wins] = number, distance[wins]
    return labels


def paint(labels: np.ndarray, nuclei: Sequence[Nucleus], rng: np.random.Generator) -> np.ndarray:
    """Return the (Z, H, W) uint16 picture: texture, blur, most along z, noise of light and camera."""
    brightness = np.array([0.0, *(one.brightness for one in nuclei)], np.float32)
    picture = brightness[labels]
    texture = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), (1, 3, 3))
    picture *= 1 + 0.25 * texture / max(float(texture.std()), 1e-6) / 2
    across = max(min(labels.shape[1:]) / 210, 0.7)
    picture = ndimage.gaussian_filter(picture, (labels.shape[0] / 20, across, across))
    counts = rng.poisson(120 * picture.clip(0) + 8) + rng.normal(0, 4, labels.shape) + 100
    return counts.round().clip(0, 65535).astype(np.uint16)


def film(
    shape: Shape, number: int, num_frames: int, seed: Sequence[int], *, touching: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield picture and labels of each frame of a sequence, both (Z, H, W) uint16.

    Args:
        shape: (Z, H, W) in voxels.
        number: Nuclei.
        num_frames: Frames.
        seed: Any integers; equal seeds give equal films.
        touching: See `place_nuclei`.
    """
    rng = np.random.default_rng(list(seed))
    nuclei = place_nuclei(shape, number, rng, touching=touching)
    for _ in range(num_frames):
        labels = draw_labels(nuclei, shape)
        yield paint(labels, nuclei, rng), labels
        nuclei = moved(nuclei, shape, rng)
