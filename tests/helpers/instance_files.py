"""Small instance data sets drawn by code: shapes of three classes, as COCO file or as label maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

CLASSES = ("Fiber", "Fragment", "Film")
CATEGORY_IDS = (3, 7, 5)  # neither contiguous nor in the order of CLASSES; 9 is unused
COLOURS = ((200, 60, 60), (60, 190, 80), (70, 90, 210))  # RGB
EMPTY, CROWDED, OVERLAPPING = 1, 2, 3  # numbers of the images that are special


class Shape(NamedTuple):
    """One object: its polygon (P, 2) in pixels x, y and its class."""

    points: np.ndarray
    label: int
    crowd: bool = False


class Scene(NamedTuple):
    """One image before it is written: its (height, width) and its objects."""

    name: str
    size: tuple[int, int]
    shapes: list[Shape]

    def masks(self) -> list[np.ndarray]:
        """Return the (H, W) uint8 0/1 mask of each object, as drawn by OpenCV."""
        return [cv2.fillPoly(np.zeros(self.size, np.uint8), [shape.points], 1) for shape in self.shapes]

    def image(self, rng: np.random.Generator) -> np.ndarray:
        """Return the (H, W, 3) uint8 RGB picture."""
        image = np.full((*self.size, 3), 30, np.int64) + rng.integers(-8, 9, (*self.size, 3))
        for shape, mask in zip(self.shapes, self.masks(), strict=True):
            image[mask > 0] = np.array(COLOURS[shape.label]) + rng.integers(-12, 13, 3)
        return image.astype(np.uint8)


def make_scenes(
    num_images: int = 6, *, num_classes: int = 3, seed: int = 0, sizes: Sequence[tuple[int, int]] = ()
) -> list[Scene]:
    """Return scenes of 2 to 4 objects; two tiles of each photograph.

    `sizes` are (height, width) in turn, random ones of 48 to 96 pixels when there are none.
    """
    rng = np.random.default_rng(seed)
    scenes = []
    for number in range(num_images):
        size = int(rng.integers(6, 13)) * 8, int(rng.integers(6, 13)) * 8
        if sizes:
            size = sizes[number % len(sizes)]
        shapes = _shapes(size, num_classes, rng)
        if number == EMPTY:
            shapes = []
        if number == CROWDED:
            shapes.append(Shape(_box(0, size[0] - 12, size[1] // 2, size[0] - 1), 0, crowd=True))
        if number == OVERLAPPING:
            x, y = (int(value) for value in shapes[0].points[0])
            shapes.append(Shape(_box(max(x - 4, 0), max(y - 4, 0), x + 6, y + 6), num_classes - 1))
        scenes.append(Scene(f"photo{number // 2}_tile{number % 2}", size, shapes))
    return scenes


def write_coco(
    folder: Path,
    num_images: int = 6,
    *,
    num_classes: int = 3,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] = (),
) -> Path:
    """Write `images/*.png` and `annotations.json`; every third object and the crowd as run lengths.

    Returns:
        `folder`, which is created.
    """
    scenes = make_scenes(num_images, num_classes=num_classes, seed=seed, sizes=sizes)
    _write_images(folder, scenes, seed)
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=100):
        for shape, mask in zip(scene.shapes, scene.masks(), strict=True):
            runs = shape.crowd or len(annotations) % 3 == 2
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[shape.label],
                    "iscrowd": int(shape.crowd),
                    "bbox": [0, 0, 0, 0],  # boxes derive from masks, so these must not matter
                    "area": int(mask.sum()),
                    "segmentation": run_lengths(mask) if runs else [shape.points.ravel().tolist()],
                }
            )
    categories = [
        {"id": id_, "name": name} for id_, name in zip(CATEGORY_IDS, CLASSES[:num_classes], strict=False)
    ]
    images = [
        {"id": id_, "file_name": f"{scene.name}.png", "height": scene.size[0], "width": scene.size[1]}
        for id_, scene in enumerate(scenes, start=100)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [*categories, {"id": 9, "name": "Bead"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def write_label_maps(folder: Path, num_images: int = 6, *, num_folders: int = 1, seed: int = 0) -> Path:
    """Write `images/*.png` and `labels/`: 16-bit PNG and TIFF in turn; the last images have mask folders.

    Crowds are left out, and in a label map the last of two overlapping objects hides the first.

    Returns:
        `folder`, which is created.
    """
    scenes = make_scenes(num_images, seed=seed)
    scenes = [scene._replace(shapes=[s for s in scene.shapes if not s.crowd]) for scene in scenes]
    _write_images(folder, scenes, seed)
    labels = folder / "labels"
    labels.mkdir()
    for number, scene in enumerate(scenes):
        if number >= num_images - num_folders:
            (labels / scene.name).mkdir()
            for index, mask in enumerate(scene.masks()):
                cv2.imwrite(str(labels / scene.name / f"{index}.png"), mask * 255)
            continue
        label_map = np.zeros(scene.size, np.uint16)
        for index, mask in enumerate(scene.masks()):
            label_map[mask > 0] = 7 + 300 * index  # with gaps, beyond 8 bits
        cv2.imwrite(str(labels / f"{scene.name}{('.png', '.tif')[number % 2]}"), label_map)
    return folder


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return the uncompressed COCO run lengths of a (H, W) mask: column by column, zeros first."""
    values = np.concatenate([[0], mask.T.ravel() != 0, [2]]).astype(int)
    changes = np.flatnonzero(np.diff(values))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()}


def _write_images(folder: Path, scenes: list[Scene], seed: int) -> None:
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    for scene in scenes:
        cv2.imwrite(str(folder / "images" / f"{scene.name}.png"), scene.image(rng)[..., ::-1])


def _shapes(size: tuple[int, int], num_classes: int, rng: np.random.Generator) -> list[Shape]:
    """Return shapes in different quarters of the image, so that they do not touch."""
    height, width = size
    shapes = []
    for quarter in rng.permutation(4)[: rng.integers(2, 5)]:
        x = int(quarter % 2 * width // 2 + width // 4 + rng.integers(-3, 4))
        y = int(quarter // 2 * height // 2 + height // 4 + rng.integers(-3, 4))
        label = int(rng.integers(num_classes))
        shapes.append(Shape(_outline(x, y, label, rng), label))
    return shapes


def _outline(x: int, y: int, label: int, rng: np.random.Generator) -> np.ndarray:
    if label == 0:  # a thin bar
        return _box(x - int(rng.integers(5, 8)), y - 1, x + 6, y + 1)
    if label == 1:  # a disc
        axes = int(rng.integers(4, 8)), int(rng.integers(4, 8))
        return cv2.ellipse2Poly((x, y), axes, int(rng.integers(180)), 0, 360, 30)
    return _box(x - 5, y - 5, x + int(rng.integers(2, 6)), y + 5)


def _box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Return the corners of the pixels x0 to x1 and y0 to y1, both inside."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.int32)
