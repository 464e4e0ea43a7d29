"""One synthetic dermoscopy image: a painted lesion on skin, in one view, with what disturbs real images.

Everything added here is independent of the class: skin tone, position, light, hairs, ruler, gel bubbles,
blur and noise.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polymask.data.demo.lesions import RECIPES, paint_lesion
from polymask.data.demo.structures import EXTENT, SIDE, Array, as_weight, blend, ramp, smooth_noise

# Skin tones from light to brown; the recipes' lesion colours were chosen on the second.
_SKINS = np.array(
    [[0.95, 0.82, 0.76], [0.90, 0.74, 0.66], [0.88, 0.68, 0.60], [0.82, 0.64, 0.52], [0.70, 0.52, 0.41]],
    np.float32,
)


def draw_image(
    dx: str, *, lesion_seed: tuple[int, ...], view_seed: tuple[int, ...], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one view of a lesion.

    Args:
        dx: Class code, a key of `synthetic_lesions.RECIPES`.
        lesion_seed: Decides what all views share: border, colours, structures, size and skin tone.
        view_seed: Decides shift, rotation, zoom, light and disturbances.
        size: (height, width) in pixels.

    Returns:
        The RGB image (H, W, 3) and its exact mask (H, W), 255 in the lesion and 0 outside.
    """
    rng = np.random.default_rng(view_seed)
    image, inside = _lesion_on_skin(dx, lesion_seed, rng, size)
    _light(image, rng)
    for probability, disturb in ((0.5, _hairs), (0.2, _ruler), (0.3, _bubbles), (0.25, _vignette)):
        if rng.random() < probability:
            disturb(image, rng)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * min(size) / 150), np.float32)
    image += rng.uniform(0.004, 0.014) * rng.standard_normal(image.shape, np.float32)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels, np.where(inside > 0, 255, 0).astype(np.uint8)


def _lesion_on_skin(
    dx: str, lesion_seed: tuple[int, ...], rng: np.random.Generator, size: tuple[int, int]
) -> tuple[Array, Array]:
    """Return the undisturbed RGB image (H, W, 3) and the border distance (H, W), positive inside."""
    own = np.random.default_rng((*lesion_seed, 1))
    radius = own.uniform(*RECIPES[dx].radius) * min(size)
    first, share = own.integers(len(_SKINS) - 1), np.float32(own.uniform())
    tone = _SKINS[first] + share * (_SKINS[first + 1] - _SKINS[first])
    canvas = paint_lesion(dx, lesion_seed)
    view = _view(rng, radius, size)
    colour, inside, opacity = (
        np.asarray(cv2.warpAffine(layer, view, size[::-1], borderMode=cv2.BORDER_REPLICATE), np.float32)
        for layer in (canvas.colour, canvas.inside, canvas.opacity)
    )
    image = _skin(rng, size, tone)
    fading = ramp(inside, -canvas.softness / 2, canvas.softness / 2)
    blend(image, opacity * fading, colour * (tone / _SKINS[1]) ** np.float32(0.6))
    return image, inside


def _view(rng: np.random.Generator, radius: float, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the affine map (2, 3) from canvas pixels to image pixels: zoom, rotation, mirroring, shift."""
    height, width = size
    zoom = radius * rng.uniform(0.85, 1.15) * 2 * EXTENT / SIDE
    angle = rng.uniform(0, 2 * np.pi)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= rng.choice([-1, 1])
    centre = np.array([width, height]) / 2 + rng.uniform(-0.14, 0.14, 2) * [width, height]
    return np.column_stack([turn, centre - turn @ np.full(2, SIDE / 2)])


def _skin(rng: np.random.Generator, size: tuple[int, int], tone: Array) -> Array:
    """Return skin (H, W, 3) of a mean tone with ruddy mottling and fine texture."""
    image = np.empty((*size, 3), np.float32)
    image[:] = tone
    ruddy = np.array([0.0, -0.045, -0.045], np.float32)
    image += ramp(smooth_noise(rng, size, 7), -0.6, 0.8)[..., None] * ruddy * np.float32(rng.uniform(0, 1.5))
    texture = 0.02 * smooth_noise(rng, size, 60) + 0.015 * smooth_noise(rng, size, 20)
    return np.asarray(image * (1 + texture[..., None]), np.float32)


def _light(image: Array, rng: np.random.Generator) -> None:
    """Exposure, white balance and a brightness gradient across the image, in place."""
    height, width = image.shape[:2]
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.14)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    gradient = 1 + np.float32(slope) * (np.cos(angle) * x[None, :] + np.sin(angle) * y[:, None])
    balance = rng.uniform(0.9, 1.08) * rng.uniform(0.97, 1.03, 3)
    image *= gradient[..., None].astype(np.float32) * balance.astype(np.float32)


def _vignette(image: Array, rng: np.random.Generator) -> None:
    """Darken towards the corners; some rims are the black edge of the dermatoscope's tube."""
    height, width = image.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    rho = np.hypot(x[None, :], y[:, None] * np.float32(height / width))
    start = rng.uniform(0.7, 1.0)
    blend(
        image, rng.uniform(0.3, 1.0) * ramp(rho, start, start + rng.choice([0.06, 0.6])), (0.05, 0.04, 0.04)
    )


def _hairs(image: Array, rng: np.random.Generator) -> None:
    """Thin curved hairs, dark or (rarely) fair."""
    height, width = image.shape[:2]
    paper = np.zeros((height, width), np.uint8)
    steps = np.linspace(0, 1, 16)[:, None]
    for _ in range(rng.geometric(0.2)):
        start, middle, end = rng.uniform(-0.1, 1.1, (3, 2)) * [width, height]
        middle = (start + end) / 2 + 0.25 * (middle - (start + end) / 2)
        curve = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * middle + steps**2 * end
        thickness = max(1, round(min(height, width) / 150 * rng.uniform(0.5, 1.6)))
        points = np.rint(curve * 16).astype(
            np.int32
        )  # cv2 takes fixed point: shift=4 is sixteenths of a pixel
        cv2.polylines(paper, [points], False, 255, thickness, cv2.LINE_AA, shift=4)
    colour = (0.85, 0.72, 0.50) if rng.random() < 0.15 else (0.16, 0.11, 0.09)
    blend(image, rng.uniform(0.5, 0.9) * as_weight(paper), colour)


def _ruler(image: Array, rng: np.random.Generator) -> None:
    """A millimetre scale along the lower or upper edge: every fifth mark is longer."""
    height, width = image.shape[:2]
    paper = np.zeros((height, width), np.uint8)
    gap = max(3, round(width * rng.uniform(0.03, 0.06)))
    for mark, x in enumerate(range(gap // 2, width, gap)):
        length = round(height * (0.09 if mark % 5 == 0 else 0.05))
        cv2.line(paper, (x, 0), (x, length), 255, 1)
    if rng.random() < 0.5:
        paper = paper[::-1]
    blend(image, 0.75 * as_weight(paper), (0.12, 0.11, 0.12))


def _bubbles(image: Array, rng: np.random.Generator) -> None:
    """Gel bubbles: a thin bright ring with a glint of the lamp."""
    height, width = image.shape[:2]
    paper = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 7)):
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        radius = max(2, round(min(height, width) * rng.uniform(0.015, 0.06)))
        cv2.circle(paper, (x, y), radius, int(rng.integers(60, 150)), 1, cv2.LINE_AA)
        glint = (x - radius // 2, y - radius // 2)
        cv2.circle(paper, glint, max(1, radius // 4), 230, -1, cv2.LINE_AA)
    blend(image, as_weight(paper), (0.99, 0.98, 0.97))
