"""Small sets of volumes in the layout of the Cell Tracking Challenge, drawn by code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

BACKGROUND = 100


def write_ctc(
    folder: Path,
    sequences: int = 2,
    frames: int = 2,
    shape: tuple[int, int, int] = (6, 48, 48),
    objects: int = 3,
    seed: int = 0,
    dense: bool = True,
    *,
    digits: int = 3,
) -> Path:
    """Write `01/t000.tif`, `01_GT/SEG`, `01_GT/TRA` and so on; objects are ellipsoids that move a little.

    Args:
        folder: Is created.
        sequences: Sequences 01, 02, …
        frames: Volumes per sequence.
        shape: (Z, H, W) of each.
        objects: Most objects of each; fewer where there is no room.
        seed: Of what is drawn.
        dense: Whether all slices are annotated, as `man_seg000.tif`; else every second one from slice 1,
            as `man_seg_000_001.tif`.
        digits: Of the numbers of frames.

    Returns:
        `folder`.
    """
    for number in range(1, sequences + 1):
        rng = np.random.default_rng([seed, number])
        balls = place_balls(shape, objects, rng)
        paths = [folder / f"{number:02}", folder / f"{number:02}_GT/SEG", folder / f"{number:02}_GT/TRA"]
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        for frame in range(frames):
            labels = draw_balls(shape, balls + (frame % 2) * np.array([0, 1, 1, 0, 0, 0]))
            name = f"{frame:0{digits}}"
            write_stack(paths[0] / f"t{name}.tif", paint(labels, rng))
            if dense:
                write_stack(paths[1] / f"man_seg{name}.tif", labels)
            for z in [] if dense else range(1, shape[0], 2):
                cv2.imwrite(str(paths[1] / f"man_seg_{name}_{z:0{digits}}.tif"), labels[z])
            write_stack(paths[2] / f"man_track{name}.tif", labels)
        lines = [f"{label} 0 {frames - 1} 0\n" for label in range(1, len(balls) + 1)]
        (paths[2] / "man_track.txt").write_text("".join(lines))
    return folder


def write_volume_folders(
    folder: Path, volumes: int = 4, shape: tuple[int, int, int] = (6, 48, 48), objects: int = 3, seed: int = 0
) -> Path:
    """Write `images/v0.tif` and `labels/v0.tif` and so on; returns `folder`, which is created."""
    for number in range(volumes):
        rng = np.random.default_rng([seed, number])
        labels = draw_balls(shape, place_balls(shape, objects, rng))
        for part, volume in (("images", paint(labels, rng)), ("labels", labels)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            write_stack(folder / part / f"v{number}.tif", volume)
    return folder


def place_balls(shape: Sequence[int], most: int, rng: np.random.Generator) -> np.ndarray:
    """Return (N, 6): centre and radii in z, y, x of ellipsoids that keep apart from one another."""
    balls: list[np.ndarray] = []
    radii_at_most = np.array([shape[0] / 2.5, shape[1] / 6, shape[2] / 6])
    for _ in range(200):
        radii = radii_at_most * rng.uniform(0.7, 1.0, 3)
        centre = rng.uniform([0.35 * shape[0], *radii[1:] + 2], [0.65 * shape[0], *shape[1:] - radii[1:] - 3])
        if len(balls) < most and all(
            np.linalg.norm(((centre - other[:3]) / (radii + other[3:]))[1:]) > 1.2 for other in balls
        ):
            balls.append(np.concatenate([centre, radii]))
    return np.array(balls).reshape(-1, 6)


def draw_balls(shape: Sequence[int], balls: np.ndarray) -> np.ndarray:
    """Return (Z, H, W) uint16: the number of the ellipsoid at each voxel, 0 = none."""
    labels = np.zeros(shape, np.uint16)
    places = np.indices(shape).transpose(1, 2, 3, 0)
    for number, ball in enumerate(balls, start=1):
        labels[(((places - ball[:3]) / ball[3:]) ** 2).sum(-1) <= 1] = number
    return labels


def paint(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the (Z, H, W) uint16 picture of a label volume: bright objects on a dim background."""
    picture = BACKGROUND + 400 * (labels > 0) + rng.normal(0, 10, labels.shape)
    return picture.clip(0, 65535).astype(np.uint16)


def write_stack(path: Path, volume: np.ndarray) -> None:
    """Write a (Z, H, W) volume as a TIFF of Z pages."""
    assert cv2.imwritemulti(str(path), list(volume))
