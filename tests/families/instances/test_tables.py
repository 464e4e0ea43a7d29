from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polymask.data.images import write_image
from polymask.errors import UserError
from polymask.families.instances.predictions import confident_objects, label_map
from polymask.families.instances.tables import coco_results, instance_rows, sizes, table_columns
from polymask.structures import rle
from polymask.structures.objects import FoundObjects


def predict(
    masks: Sequence[np.ndarray], labels: Sequence[int], scores: Sequence[float], id_: str = "a"
) -> FoundObjects:
    size = masks[0].shape if masks else (20, 30)
    corners = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    boxes = [(x, y, x + width, y + height) for x, y, width, height in corners]
    return FoundObjects(
        id=id_,
        size=(size[0], size[1]),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        masks=[rle.encode(mask) for mask in masks],
    )


def rectangle(y: int, x: int, height: int, width: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def test_rows_of_two_rectangles() -> None:
    prediction = predict([rectangle(2, 3, 4, 9), rectangle(10, 20, 1, 5)], [1, 0], [0.9, 0.25])
    rows = instance_rows(prediction, ["Fiber", "Film"])
    first = {"image": "a", "id": 1, "class": "Film", "score": 0.9}
    assert rows[0] == first | {"x0": 3, "y0": 2, "x1": 12, "y1": 6, "area_pixels": 36}
    second = {"image": "a", "id": 2, "class": "Fiber", "score": 0.25}
    assert rows[1] == second | {"x0": 20, "y0": 10, "x1": 25, "y1": 11, "area_pixels": 5}


def test_sizes_in_pixels_and_micrometres() -> None:
    # A circle of 36 square pixels: pi d^2 / 4 = 36.
    assert sizes(36, None) == {"area_pixels": 36, "equivalent_diameter_pixels": 6.77}
    found = sizes(36, 2.5)
    assert found["area_um2"] == 225
    assert math.pi * found["equivalent_diameter_um"] ** 2 / 4 == pytest.approx(225, rel=1e-5)
    assert sizes(10, 0.0123)["area_um2"] == pytest.approx(10 * 0.0123**2, rel=1e-5)


def test_a_disc_has_its_own_diameter() -> None:
    y, x = np.mgrid[:300, :300]
    disc = predict([(y - 150) ** 2 + (x - 140) ** 2 <= 100**2], [0], [0.9])
    area = instance_rows(disc, ["disc"])[0]["area_pixels"]
    assert sizes(area, None)["equivalent_diameter_pixels"] == pytest.approx(200, abs=0.1)


def test_columns_tell_whether_pixels_have_a_size() -> None:
    columns = ("image", "id", "class", "score", "x0", "y0", "x1", "y1")
    pixels = ("area_pixels", "equivalent_diameter_pixels")
    assert table_columns(None) == columns + pixels
    assert table_columns(0.5) == (*columns, *pixels, "area_um2", "equivalent_diameter_um")


def test_only_confident_objects_are_left() -> None:
    masks = [rectangle(0, 0, 2, 2), rectangle(5, 5, 3, 3), rectangle(9, 9, 1, 1)]
    sure = confident_objects(predict(masks, [0, 1, 0], [0.9, 0.5, 0.49]), 0.5)
    assert sure.labels.tolist() == [0, 1]
    assert len(sure.masks) == len(sure.boxes) == len(sure.scores) == 2
    assert len(confident_objects(sure, 0.95).masks) == 0


def test_the_better_score_wins_in_the_label_map() -> None:
    best, other, hidden = rectangle(2, 2, 6, 6), rectangle(5, 5, 6, 6), rectangle(3, 3, 2, 2)
    found = label_map(predict([best, other, hidden], [0, 0, 0], [0.9, 0.8, 0.7]))
    expected = np.zeros((20, 30), np.uint16)
    for y in range(20):
        for x in range(30):
            numbers = [n for n, mask in enumerate((best, other, hidden), start=1) if mask[y, x]]
            expected[y, x] = min(numbers, default=0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint16
    assert set(np.unique(found)) == {0, 1, 2}


def test_label_maps_survive_the_file(tmp_path: Path) -> None:
    numbers = np.zeros((50, 40), np.uint16)
    numbers.flat[:1500] = np.arange(1, 1501)
    masks = [numbers == number for number in range(1, 1501)]
    found = label_map(predict(masks, [0] * 1500, np.linspace(1, 0.5, 1500)))
    write_image(tmp_path / "sub" / "a.tif", found)
    read = cv2.imread(str(tmp_path / "sub" / "a.tif"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, numbers)


def test_an_image_without_objects() -> None:
    empty = predict([], [], [])
    assert instance_rows(empty, ["Fiber"]) == []
    assert coco_results(empty, "a", [1]) == []
    np.testing.assert_array_equal(label_map(empty), np.zeros((20, 30)))


def test_too_many_objects_are_a_mistake_of_the_threshold() -> None:
    many = predict([rectangle(0, 0, 1, 1)], [0], [0.5])
    many = FoundObjects(**{**vars(many), "masks": list(many.masks) * 65536})
    with pytest.raises(UserError, match=r"a has 65536 objects.*task\.score_threshold"):
        label_map(many)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2
def test_perfect_results_score_1_in_pycocotools(tmp_path: Path) -> None:
    """Ground truth by pycocotools' own encoder, with category and image ids of its own."""
    rng = np.random.default_rng(0)
    categories = [7, 3]
    images, annotations, results = [], [], []
    for image_id in (11, 5, 8):
        masks = [rectangle(*rng.integers(0, (60, 80)), *rng.integers(4, 40, 2), (100, 120)) for _ in range(6)]
        labels = rng.integers(0, 2, 6)
        images.append({"id": image_id, "height": 100, "width": 120})
        for mask, label in zip(masks, labels, strict=True):
            code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            box = [float(side) for side in coco_mask.toBbox(code)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[label],
                    "bbox": box,
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [100, 120], "counts": code["counts"].decode()},
                }
            )
        scores = np.sort(rng.random(6))[::-1]
        results += coco_results(predict(masks, labels, scores), image_id, categories)
    names = [{"id": index, "name": str(index)} for index in categories]
    truth = {"images": images, "annotations": annotations, "categories": names}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "instances.json").write_text(json.dumps(results))
    coco = COCO(str(tmp_path / "truth.json"))
    found = coco.loadRes(str(tmp_path / "instances.json"))
    for kind in ("segm", "bbox"):
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    for annotation, result in zip(annotations, results, strict=True):
        np.testing.assert_array_equal(
            coco_mask.decode(result["segmentation"]), coco.annToMask(coco.anns[annotation["id"]])
        )
