from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_isic2016(
    folder: Path, num_train: int = 10, num_test: int = 4, size: tuple[int, int] = (48, 64)
) -> Path:
    """The challenge's folders with dark ellipses on skin; no test folders when `num_test` is 0."""
    rng = np.random.default_rng(0)
    names = [f"ISIC_{number:07d}" for number in range(num_train + num_test)]
    for part, ids in (("Training", names[:num_train]), ("Test", names[num_train:])):
        images, masks = isic_folders(folder, part)
        for name in ids:
            images.mkdir(parents=True, exist_ok=True)
            masks.mkdir(parents=True, exist_ok=True)
            image, mask = draw_lesion(rng, size)
            cv2.imwrite(str(images / f"{name}.jpg"), image[..., ::-1])
            cv2.imwrite(str(masks / f"{name}_Segmentation.png"), mask)
    return folder


def isic_folders(folder: Path, part: str = "Training") -> tuple[Path, Path]:
    stem = f"ISBI2016_ISIC_Part1_{part}"
    return folder / f"{stem}_Data", folder / f"{stem}_GroundTruth"


def draw_lesion(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """RGB image (H, W, 3) and mask (H, W) with 0 and 255, both uint8."""
    height, width = size
    centre = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    axes = width * rng.uniform(0.15, 0.3), height * rng.uniform(0.15, 0.3)
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, (centre, (2 * axes[0], 2 * axes[1]), float(rng.integers(180))), 255, thickness=-1)
    image = np.where(mask[..., None] > 0, (110, 70, 50), (225, 180, 160)) + rng.integers(-8, 9, (*size, 3))
    return image.astype(np.uint8), mask
