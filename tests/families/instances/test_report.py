from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polymask.data.images import read_image
from polymask.data.sources import read_coco
from polymask.families.instances.family import Family
from polymask.families.instances.report import read_truth
from polymask.metrics.instance_matching import match_image
from polymask.reporting.course import Course
from polymask.reporting.rows import read_samples
from polymask.structures import rle
from polymask.structures.objects import FoundObjects

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2

NAMES = ["Fiber", "Fragment", "Film"]
CATEGORIES = (4, 9, 2)  # ids in the annotation file; it names them in this order
THRESHOLD = 0.5
PIXEL_SIZE = 0.8
HISTORY = [
    {"epoch": epoch, "train/loss": 2 / epoch, "val/loss": 2.5 / epoch, "val/mask_ap50": 0.1 * epoch}
    for epoch in (1, 2, 3)
]


@dataclass
class Data:
    """What a report asks of a data set."""

    records: list[Any]
    pixel_size: float | None
    split: Any

    def subset(self, name: str) -> list[Any]:
        assert name == "test"
        return self.records

    def groups(self, ids: Sequence[str]) -> list[str]:
        group = {record.id: record.group for record in self.records}
        return [group[id_] for id_ in ids]


def ellipse(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    centre = [int(value) for value in rng.integers(10, (size[1] - 10, size[0] - 10))]
    cv2.ellipse(mask, centre, [int(a) for a in rng.integers(4, 22, 2)], 30, 0, 360, 1, -1)
    return mask


def write_scenes(folder: Path, num_images: int = 12) -> None:
    """Write images of various sizes and a COCO file; image 3 has no objects, image 5 a crowd."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(num_images):
        height, width = (int(side) for side in rng.integers(60, 140, 2))
        name = f"photo{index // 2}_tile{index:02d}.png"
        pixels = rng.integers(60, 120, (height, width, 3)).astype(np.uint8)
        images.append({"id": 100 - index, "file_name": name, "height": height, "width": width})
        for place in range(0 if index == 3 else int(rng.integers(2, 7))):
            mask = ellipse((height, width), rng)
            pixels[mask > 0] = rng.integers(120, 250, 3)
            code = rle.encode(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 - index,
                    "category_id": CATEGORIES[rng.integers(3)],
                    "iscrowd": int(index == 5 and place == 0),
                    "segmentation": rle.to_json(code),
                    "area": int(mask.sum()),
                    "bbox": list(cv2.boundingRect(mask)),
                }
            )
        cv2.imwrite(str(folder / name), pixels)
    categories = [{"id": index, "name": name} for index, name in zip(CATEGORIES, NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def predict(record: Any, rng: np.random.Generator) -> FoundObjects:
    """Find most true objects a bit too small, some with a wrong class, and some that are not there."""
    truth = read_truth(record, read_image(record.image_path).shape[:2])
    objects = []
    for mask, label in zip(truth.masks, truth.labels, strict=True):
        eroded = cv2.erode(rle.decode(mask).astype(np.uint8), np.ones((int(rng.integers(1, 5)), 3)))
        if eroded.any() and rng.random() < 0.8:
            objects.append((eroded, label if rng.random() < 0.8 else (label + 1) % 3))
    objects += [(ellipse(truth.size, rng), rng.integers(3)) for _ in range(rng.integers(0, 3))]
    scores = np.sort(rng.random(len(objects)))[::-1].astype(np.float32)
    masks = [rle.encode(mask) for mask, _ in objects]
    return FoundObjects(
        id=record.id,
        size=truth.size,
        boxes=np.array([rle.box(mask) for mask in masks], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label in objects], np.int64),
        scores=scores,
        masks=masks,
    )


@dataclass
class Outcome:
    folder: Path
    data_dir: Path
    data: Data
    family: Family
    rows: dict[str, np.ndarray]
    predictions: list[FoundObjects]
    lines: list[str]


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    data_dir, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("report")
    write_scenes(data_dir)
    records, names = read_coco(data_dir, classes=NAMES, group_pattern=r"photo\d+")
    assert names == NAMES
    data = Data(records, PIXEL_SIZE, SimpleNamespace(sha256="f00d"))
    family = Family(class_names=NAMES, score_threshold=THRESHOLD, pixel_size=PIXEL_SIZE)
    rng = np.random.default_rng(1)
    predictions = [predict(record, rng) for record in records]
    compared = [
        match_image(prediction, read_truth(record, prediction.size), num_classes=3, score_threshold=THRESHOLD)
        for prediction, record in zip(predictions, records, strict=True)
    ]
    rows = {name: np.stack([row[name] for row in compared]) for name in compared[0]}
    rows |= {"ids": np.array([record.id for record in records]), "loss": np.linspace(1, 2, len(compared))}
    report = family.report(folder, data)
    report.add(predictions[:5])
    report.add(predictions[5:])
    lines = report.finish(rows, Course(history=HISTORY, best_epoch=3))
    return Outcome(folder, data_dir, data, family, rows, predictions, lines)


@pytest.fixture
def table(tested: Outcome) -> pd.DataFrame:
    return pd.read_csv(tested.folder / "per_sample.csv")


@pytest.fixture
def objects(tested: Outcome) -> pd.DataFrame:
    return pd.read_csv(tested.folder / "instances.csv")


def truth_of(tested: Outcome) -> tuple[dict[str, list[dict[str, Any]]], dict[str, tuple[int, int]]]:
    """Return the annotations and the size of each image, from the annotation file itself."""
    content = json.loads((tested.data_dir / "annotations.json").read_text())
    names = {image["id"]: image["file_name"].removesuffix(".png") for image in content["images"]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        found[names[annotation["image_id"]]].append(annotation)
    return found, {names[image["id"]]: (image["height"], image["width"]) for image in content["images"]}


def read_numbers(tested: Outcome, id_: str) -> np.ndarray:
    return cv2.imread(str(tested.folder / "label_maps" / f"{id_}.tif"), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(("kind", "name"), [("segm", "mask"), ("bbox", "box")])
def test_pycocotools_reads_the_files_and_agrees(tested: Outcome, kind: str, name: str) -> None:
    truth = COCO(str(tested.data_dir / "annotations.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tested.folder / "instances.json")), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = json.loads((tested.folder / "metrics.json").read_text())["metrics"]
    for index, suffix in enumerate(("", "50", "75")):
        assert metrics[f"{name}_ap{suffix}"]["value"] == pytest.approx(evaluation.stats[index], abs=1e-9)
    assert 0.1 < evaluation.stats[1] < 0.95


def test_tables_and_label_maps_agree(tested: Outcome, objects: pd.DataFrame) -> None:
    _, sizes = truth_of(tested)
    for prediction in tested.predictions:
        numbers = read_numbers(tested, prediction.id)
        assert (numbers.dtype, numbers.shape) == (np.uint16, sizes[prediction.id])
        rows = objects[objects["image"] == prediction.id]
        assert list(rows["id"]) == list(range(1, len(rows) + 1))
        assert len(rows) == (prediction.scores >= THRESHOLD).sum()
        expected = np.zeros(numbers.shape, int)
        for number in reversed(range(1, len(rows) + 1)):
            mask = rle.decode(prediction.masks[number - 1])
            expected[mask] = number
            assert rows["area_pixels"].iloc[number - 1] == mask.sum()
        np.testing.assert_array_equal(numbers, expected)
    assert (objects["score"] >= THRESHOLD).all()


def test_objects_have_a_size_in_micrometres(objects: pd.DataFrame) -> None:
    area = objects["area_pixels"] * PIXEL_SIZE**2
    np.testing.assert_allclose(objects["area_um2"], area, rtol=1e-5)
    np.testing.assert_allclose(objects["equivalent_diameter_um"], 2 * np.sqrt(area / np.pi), rtol=1e-5)


def test_the_table_of_images(tested: Outcome, table: pd.DataFrame, objects: pd.DataFrame) -> None:
    annotations, sizes = truth_of(tested)
    assert list(table["id"]) == sorted(annotations)
    assert list(table["group"]) == [name.split("_")[0] for name in sorted(annotations)]
    for row in table.to_dict("records"):
        masks: dict[int, np.ndarray] = {kind: np.zeros(sizes[row["id"]], bool) for kind in (0, 1)}
        for annotation in annotations[row["id"]]:
            mask = rle.decode(rle.from_coco(annotation["segmentation"], sizes[row["id"]]))
            masks[annotation["iscrowd"]] |= mask
        true = masks[0]
        valid = true | ~masks[1]  # in a crowd, only the objects that are known count
        found = (read_numbers(tested, row["id"]) > 0) & valid
        total = (true | found).sum()
        assert row["iou_lesion"] == pytest.approx((true & found).sum() / total if total else 1)
        for index, name in enumerate(NAMES):
            of_class = [each for each in annotations[row["id"]] if each["category_id"] == CATEGORIES[index]]
            assert row[f"true_{name}"] == sum(not each["iscrowd"] for each in of_class)
            of_image = objects[(objects["image"] == row["id"]) & (objects["class"] == name)]
            crowded = any(each["iscrowd"] for each in annotations[row["id"]])
            assert row[f"found_{name}"] <= len(of_image)
            assert crowded or row[f"found_{name}"] == len(of_image)
    empty = table.iloc[3]
    assert empty[[f"true_{name}" for name in NAMES]].sum() == 0
    assert np.isnan(empty["recall_at_score"])
    assert np.isnan(empty["top_mask_iou"])


def test_the_mean_over_images_is_the_metric(tested: Outcome, table: pd.DataFrame) -> None:
    content = json.loads((tested.folder / "metrics.json").read_text())
    metrics = content["metrics"]
    for metric, column in (
        ("dice_lesion_image", "dice_lesion"),
        ("iou_lesion_image", "iou_lesion"),
        ("top_mask_iou", "top_mask_iou"),
    ):
        assert metrics[metric]["value"] == pytest.approx(table[column].mean(), rel=1e-6)
        assert metrics[metric]["low"] < metrics[metric]["value"] < metrics[metric]["high"]
    excess = sum(table[f"found_{name}"] - table[f"true_{name}"] for name in NAMES)
    assert metrics["count_error"]["value"] == pytest.approx(excess.abs().mean())
    assert (content["num_samples"], content["num_groups"]) == (12, 6)
    assert content["losses"] == {"loss": pytest.approx(1.5)}
    assert content["split_sha256"] == "f00d"
    assert (content["score_threshold"], content["pixel_size_um"]) == (THRESHOLD, PIXEL_SIZE)


def test_the_rows_are_kept(tested: Outcome) -> None:
    rows, groups = read_samples(tested.folder)
    assert set(rows) == set(tested.rows)
    for name, values in tested.rows.items():
        np.testing.assert_array_equal(rows[name], values)
    assert groups == [record.group for record in tested.data.records]


def test_all_files_are_there_and_no_picture_is_blank(tested: Outcome) -> None:
    pictures = ["calibration_objects.png", "confusion_matrix.png", "pr_curves.png", "training_curves.png"]
    tables = ["instances.csv", "instances.json", "metrics.json", "per_sample.csv", "samples.npz"]
    folders = ["label_maps", "overlays", "predictions"]
    assert sorted(path.name for path in tested.folder.iterdir()) == sorted([*pictures, *tables, *folders])
    ids = {record.id for record in tested.data.records}
    assert {path.stem for path in (tested.folder / "label_maps").iterdir()} == ids
    assert {path.stem for path in (tested.folder / "overlays").iterdir()} == ids
    for path in [tested.folder / name for name in pictures] + list(tested.folder.glob("predictions/*")):
        image = read_image(path)
        assert min(image.shape[:2]) > 150, path
        assert image.std() > 5, path


def test_the_worst_images_are_shown(tested: Outcome, table: pd.DataFrame) -> None:
    shown = {path.stem for path in (tested.folder / "predictions").iterdir()}
    for number, name in enumerate(table.sort_values("dice_lesion", kind="stable")["id"][:8], start=1):
        assert f"worst_{number}_{name}" in shown
    assert len(shown) == 16


def test_a_later_process_draws_the_same_picture(tested: Outcome) -> None:
    later = tested.family.report(tested.folder, tested.data)
    path = next(tested.folder.glob("predictions/worst_1_*.png"))
    id_ = path.stem.removeprefix("worst_1_")
    np.testing.assert_array_equal(later.picture(id_), read_image(path))
    assert later.picture(id_).shape[0] > read_image(tested.folder / "overlays" / f"{id_}.jpg").shape[0]


def test_the_summary_names_values_and_intervals(tested: Outcome) -> None:
    metrics = json.loads((tested.folder / "metrics.json").read_text())["metrics"]
    entry = metrics["mask_ap50"]
    (line,) = [line for line in tested.lines if line.startswith("test/mask_ap50 ")]
    assert f"{entry['value']:.4f}" in line
    assert f"{entry['low']:.4f} to {entry['high']:.4f}" in line


def test_the_confusion_matrix_counts_every_object(tested: Outcome, table: pd.DataFrame) -> None:
    """Rows and columns of what is drawn sum to the counts of the tables, where there is no crowd."""
    plain = np.arange(len(table)) != 5
    counts = tested.rows["instance_confusion"][plain].sum(axis=0)
    for index, name in enumerate(NAMES):
        assert counts[index].sum() == table[f"true_{name}"][plain].sum()
        assert counts[:, index].sum() == table[f"found_{name}"][plain].sum()
