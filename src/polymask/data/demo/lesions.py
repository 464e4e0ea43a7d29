"""How a synthetic lesion of each class looks: a recipe of colours, border and structures per class.

The structures are those that dermatologists name for the seven HAM10000 classes, much simplified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from polymask.data.demo.structures import (
    COORDINATES,
    SIDE,
    Array,
    Canvas,
    Colour,
    blend,
    crust,
    fissures,
    network,
    patch,
    ramp,
    smooth_noise,
    spots,
    strawberry,
    vessels,
)

Structure = Callable[[Canvas], None]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How lesions of one class look; a pair is the range of a uniform draw.

    Attributes:
        colours: Two RGB colours; the lesion is mottled between them.
        radius: Mean radius, as a share of the shorter image side.
        irregular: Size of the border's waves, as a share of the radius.
        softness: Width of the fading border in radii.
        opacity: How much of the skin shows the lesion's colour.
        structures: Each structure with the probability that a lesion has it, painted in this order.
    """

    colours: tuple[Colour, Colour]
    radius: Range
    irregular: Range
    softness: Range
    opacity: Range
    structures: tuple[tuple[float, Structure], ...]


RECIPES = {
    "mel": Recipe(
        colours=((0.50, 0.32, 0.22), (0.27, 0.17, 0.14)),
        radius=(0.22, 0.36),
        irregular=(0.09, 0.20),
        softness=(0.06, 0.20),
        opacity=(0.85, 0.97),
        structures=(
            (0.6, partial(network, colour=(0.20, 0.12, 0.10), jitter=0.42, strength=0.8)),
            (0.4, partial(patch, colour=(0.80, 0.58, 0.53), size=(0.2, 0.4), off=0.7, strength=0.75)),
            (0.9, partial(patch, colour=(0.12, 0.08, 0.09), size=(0.25, 0.5), off=0.6, strength=0.85)),
            (0.8, partial(patch, colour=(0.47, 0.52, 0.62), size=(0.25, 0.45), off=0.5, strength=0.75)),
            (
                0.6,
                partial(spots, colour=(0.13, 0.08, 0.08), count=(8, 25), size=(0.02, 0.05), where=(0.6, 1.0)),
            ),
        ),
    ),
    "nv": Recipe(
        colours=((0.62, 0.42, 0.29), (0.46, 0.29, 0.20)),
        radius=(0.17, 0.33),
        irregular=(0.02, 0.08),
        softness=(0.15, 0.35),
        opacity=(0.7, 0.95),
        structures=(
            (0.4, partial(patch, colour=(0.34, 0.21, 0.15), size=(0.3, 0.55), off=0.15, strength=0.6)),
            (0.8, partial(network, colour=(0.30, 0.18, 0.12), jitter=0.16, strength=0.7)),
            (0.4, partial(spots, colour=(0.28, 0.17, 0.12), count=(12, 40), size=(0.025, 0.05))),
        ),
    ),
    "bcc": Recipe(
        colours=((0.87, 0.62, 0.58), (0.77, 0.49, 0.47)),
        radius=(0.18, 0.33),
        irregular=(0.04, 0.13),
        softness=(0.12, 0.30),
        opacity=(0.6, 0.85),
        structures=(
            (0.65, partial(spots, colour=(0.40, 0.43, 0.53), count=(2, 7), size=(0.07, 0.17))),
            (0.35, partial(patch, colour=(0.62, 0.25, 0.15), size=(0.12, 0.25), off=0.5, strength=0.85)),
            (0.9, vessels),
        ),
    ),
    "akiec": Recipe(
        colours=((0.82, 0.52, 0.46), (0.70, 0.38, 0.35)),
        radius=(0.18, 0.33),
        irregular=(0.06, 0.15),
        softness=(0.2, 0.45),
        opacity=(0.6, 0.85),
        structures=(
            (0.65, strawberry),
            (0.35, partial(spots, colour=(0.60, 0.16, 0.18), count=(20, 50), size=(0.02, 0.035))),
            (0.85, crust),
        ),
    ),
    "bkl": Recipe(
        colours=((0.65, 0.48, 0.37), (0.47, 0.35, 0.29)),
        radius=(0.18, 0.34),
        irregular=(0.05, 0.13),
        softness=(0.03, 0.08),
        opacity=(0.8, 0.95),
        structures=(
            (0.5, fissures),
            (0.7, partial(spots, colour=(0.20, 0.13, 0.09), count=(4, 14), size=(0.04, 0.09))),
            (0.85, partial(spots, colour=(0.95, 0.90, 0.76), count=(6, 20), size=(0.03, 0.06))),
        ),
    ),
    "df": Recipe(
        colours=((0.76, 0.54, 0.41), (0.66, 0.44, 0.33)),
        radius=(0.16, 0.28),
        irregular=(0.02, 0.07),
        softness=(0.3, 0.5),
        opacity=(0.65, 0.85),
        structures=(
            (0.8, partial(network, colour=(0.46, 0.28, 0.20), jitter=0.16, strength=0.6, inner=0.45)),
            (0.95, partial(patch, colour=(0.93, 0.84, 0.79), size=(0.28, 0.48), off=0.15, strength=0.85)),
        ),
    ),
    "vasc": Recipe(
        colours=((0.74, 0.33, 0.34), (0.56, 0.20, 0.26)),
        radius=(0.15, 0.30),
        irregular=(0.04, 0.12),
        softness=(0.05, 0.15),
        opacity=(0.75, 0.95),
        structures=(
            (0.9, partial(spots, colour=(0.60, 0.09, 0.14), count=(10, 20), size=(0.1, 0.22))),
            (0.7, partial(spots, colour=(0.27, 0.09, 0.25), count=(3, 9), size=(0.1, 0.2))),
            (0.3, partial(patch, colour=(0.70, 0.62, 0.72), size=(0.2, 0.4), off=0.5, strength=0.5)),
        ),
    ),
}


def _border(rng: np.random.Generator, irregular: float) -> Array:
    """Return the distance to a wavy oval's border (SIDE, SIDE) in lesion radii, positive inside."""
    x, y = COORDINATES
    aspect = rng.uniform(1.0, 1.4)
    rho, theta = np.hypot(x * aspect**0.5, y / aspect**0.5), np.arctan2(y, x)
    rim = 1 + 0.35 * irregular * smooth_noise(rng, (SIDE, SIDE), 20)
    for k in range(2, 9):
        wave = rng.normal(0, 1.6 * irregular / k**0.75)
        rim += np.float32(wave) * np.cos(k * theta + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.clip(rim, 0.45, 1.35) - rho


def paint_lesion(dx: str, seed: tuple[int, ...]) -> Canvas:
    """Paint one lesion on its canvas.

    Args:
        dx: Class code, a key of `RECIPES`.
        seed: Decides everything else about the lesion.

    Returns:
        The canvas with colours, border distance and opacity.
    """
    recipe, rng = RECIPES[dx], np.random.default_rng(seed)
    mottling = ramp(smooth_noise(rng, (SIDE, SIDE), 6), -0.6, 0.6) * rng.uniform(0.3, 1.0)
    colour = np.empty((SIDE, SIDE, 3), np.float32)
    colour[:] = recipe.colours[0]
    blend(colour, mottling, recipe.colours[1])
    canvas = Canvas(
        colour=colour,
        inside=_border(rng, rng.uniform(*recipe.irregular)),
        opacity=np.full((SIDE, SIDE), rng.uniform(*recipe.opacity), np.float32),
        softness=rng.uniform(*recipe.softness),
        rng=rng,
    )
    for probability, structure in recipe.structures:
        if rng.random() < probability:
            structure(canvas)
    grain = 1 + 0.07 * smooth_noise(rng, (SIDE, SIDE), 40) + 0.05 * smooth_noise(rng, (SIDE, SIDE), 90)
    canvas.colour[:] *= grain[..., None]
    canvas.colour[:] *= rng.uniform(0.88, 1.12) * rng.uniform(0.96, 1.04, 3).astype(np.float32)
    return canvas
