"""The HAM10000 layout, written by code."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

LESION_COLOURS = {"MEL": (60, 40, 40), "NV": (170, 90, 40), "BKL": (110, 110, 190)}  # RGB
IMAGES_PER_LESION = (2, 2, 1, 1, 1, 1)  # of each class


def write_lesions(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = ["lesion_id,image_id,dx"]
    for dx, colour in LESION_COLOURS.items():
        for lesion, count in enumerate(IMAGES_PER_LESION):
            for _ in range(count):
                name = f"ISIC_{len(rows):07d}"
                rows.append(f"HAM_{dx}_{lesion},{name},{dx.lower()}")
                _write_lesion(folder, name, colour, rng)
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def _write_lesion(folder: Path, name: str, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    centre = int(rng.integers(26, 38)), int(rng.integers(20, 28))
    axes = int(rng.integers(10, 18)), int(rng.integers(8, 14))
    mask = np.zeros((48, 64), np.uint8)
    cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 255, thickness=-1)
    image = np.where(mask[..., None] > 0, colour, (225, 180, 160)) + rng.integers(-8, 9, (48, 64, 3))
    cv2.imwrite(str(folder / "images" / f"{name}.jpg"), image.astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(folder / "masks" / f"{name}_segmentation.png"), mask)


def lesion(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (height, width, 3) uint8 RGB: a dark ellipse on skin."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (225, 180, 160), np.int16)
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows / height - 0.5) / 0.3) ** 2 + ((columns / width - 0.45) / 0.25) ** 2 < 1
    image[inside] = (70, 45, 40) if seed % 2 else (170, 90, 40)
    return np.clip(image + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
