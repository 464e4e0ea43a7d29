from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from polymask.errors import UserError
from polymask.families.images import ImageCase
from polymask.families.instances.application import Application
from polymask.structures import rle
from polymask.structures.objects import FoundObjects

NAMES = ["Fiber", "Film"]
SIZE = (80, 100)


def prediction(file: str, count: int, seed: int = 0) -> FoundObjects:
    """Return `count` rectangles side by side, of 4 x (3 + i) pixels; scores 0.95, 0.85, …"""
    masks = []
    for index in range(count):
        mask = np.zeros(SIZE, bool)
        mask[10 * index : 10 * index + 4, 5 : 8 + index] = True
        masks.append(rle.encode(mask))
    return FoundObjects(
        id=file,
        size=SIZE,
        boxes=np.array([rle.box(mask) for mask in masks], np.float32).reshape(-1, 4),
        labels=np.random.default_rng(seed).integers(0, 2, count),
        scores=(0.95 - 0.1 * np.arange(count)).astype(np.float32),
        masks=masks,
    )


def make(chosen: dict[str, Any] | None = None) -> Application:
    return Application(
        {"batch_size": 2}, chosen or {}, class_names=NAMES, score_threshold=0.5, pixel_size=None
    )


OWN = make()


def image() -> np.ndarray:
    return np.full((*SIZE, 3), 90, np.uint8)


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "instances.csv").read_text())))


def test_the_files_of_one_image(tmp_path: Path) -> None:
    found = prediction("sub/a.jpg", 7)
    row = OWN.write_result(tmp_path, Path("sub/a"), found, image())
    labels = found.labels[:5]  # 0.95 to 0.55; the two others are below the threshold
    areas = [4 * (3 + index) for index in range(5)]
    assert row == {
        "num_objects": 5,
        "count_Fiber": (labels == 0).sum(),
        "count_Film": (labels == 1).sum(),
        "covered_pixels": sum(areas),
        "covered_share": f"{sum(areas) / 8000:.6f}",
    }
    assert tuple(row) == tuple(OWN.columns)
    numbers = cv2.imread(str(tmp_path / "label_maps" / "sub" / "a.tif"), cv2.IMREAD_UNCHANGED)
    assert (numbers.dtype, numbers.shape) == (np.uint16, SIZE)
    assert np.bincount(numbers.ravel())[1:].tolist() == areas
    assert cv2.imread(str(tmp_path / "overlays" / "sub" / "a.jpg")).shape[0] >= 7 * 80
    OWN.finish(tmp_path)
    lines = table(tmp_path)
    assert [line["id"] for line in lines] == list("12345")
    assert [int(line["area_pixels"]) for line in lines] == areas
    assert [line["class"] for line in lines] == [NAMES[label] for label in labels]
    assert {line["image"] for line in lines} == {"sub/a.jpg"}
    assert len(json.loads((tmp_path / "instances.json").read_text())) == 7  # all, for average precision


def test_no_overlay_when_none_is_wanted(tmp_path: Path) -> None:
    OWN.write(tmp_path, Path("a"), prediction("a.jpg", 2), ImageCase(size=SIZE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instances", "label_maps"]


def test_an_image_without_objects(tmp_path: Path) -> None:
    row = OWN.write_result(tmp_path, Path("a"), prediction("a.jpg", 0), image())
    OWN.finish(tmp_path)
    assert (row["num_objects"], row["covered_pixels"]) == (0, 0)
    assert table(tmp_path) == []
    assert json.loads((tmp_path / "instances.json").read_text()) == []
    assert not cv2.imread(str(tmp_path / "label_maps" / "a.tif"), cv2.IMREAD_UNCHANGED).any()


def test_threads_and_one_thread_write_the_same(tmp_path: Path) -> None:
    jobs = [(Path(f"f{n % 3}/i{n}"), prediction(f"f{n % 3}/i{n}.png", n % 7, seed=n)) for n in range(40)]
    for name, threads in (("one", 1), ("four", 4)):
        folder = tmp_path / name
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda job, to=folder: OWN.write_result(to, *job, image()), jobs))
        OWN.finish(folder)
    for name in ("instances.csv", "instances.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "four" / name).read_bytes()
    assert len(json.loads((tmp_path / "one" / "instances.json").read_text())) == sum(n % 7 for n in range(40))


def test_a_run_that_goes_on_has_the_objects_of_the_first_one_too(tmp_path: Path) -> None:
    split, whole = tmp_path / "split", tmp_path / "whole"
    first = make()
    first.write_result(split, Path("a"), prediction("a.jpg", 3), image())
    first.write_result(split, Path("b"), prediction("b.jpg", 2), image())  # and is killed before `finish`
    (split / ".instances.json.partial").write_text('[\n{"cut": ')
    second = make()
    second.write_result(split, Path("b"), prediction("b.jpg", 2), image())  # its row was not yet written
    second.write_result(split, Path("c"), prediction("c.jpg", 4), image())
    second.finish(split)
    make().finish(split)  # nothing is left to do
    for name, count in (("a", 3), ("b", 2), ("c", 4)):
        OWN.write_result(whole, Path(name), prediction(f"{name}.jpg", count), image())
    OWN.finish(whole)
    for name in ("instances.csv", "instances.json"):
        assert (split / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(path.name for path in split.iterdir()) == [
        "instances",
        "instances.csv",
        "instances.json",
        "label_maps",
        "overlays",
    ]


def test_micrometres_may_be_asked_for_later(tmp_path: Path) -> None:
    OWN.write_result(tmp_path, Path("a"), prediction("a.jpg", 1), image())
    OWN.finish(tmp_path)
    assert "area_um2" not in table(tmp_path)[0]
    later = make({"data.pixel_size": 0.5})
    assert later.settings == OWN.settings == {}  # results of both may lie in one folder
    later.finish(tmp_path)
    (line,) = table(tmp_path)
    assert float(line["area_um2"]) == 12 * 0.25
    assert float(line["equivalent_diameter_um"]) == pytest.approx((4 * 3 / np.pi) ** 0.5, rel=1e-5)


def test_values_of_an_inference_take_the_place_of_those_of_training(tmp_path: Path) -> None:
    surer = make({"task.score_threshold": 0.9})
    assert surer.write_result(tmp_path, Path("a"), prediction("a.jpg", 7), None)["num_objects"] == 1
    assert surer.settings == {"task.score_threshold": 0.9}
    with pytest.raises(UserError, match=r"task\.score_threshold=1\.5 is not valid"):
        make({"task.score_threshold": 1.5})
    with pytest.raises(UserError, match=r"data\.pixel_size=0 is not valid"):
        make({"data.pixel_size": 0})


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2
def test_pycocotools_reads_the_results(tmp_path: Path) -> None:
    for name in ("a", "b"):
        OWN.write_result(tmp_path, Path(name), prediction(f"{name}.jpg", 3), image())
    OWN.finish(tmp_path)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]} for name in ("a", "b")],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "instances.json"))
    assert len(results.anns) == 6
    numbers = cv2.imread(str(tmp_path / "label_maps" / "a.tif"), cv2.IMREAD_UNCHANGED)
    for number, found in enumerate(results.loadAnns(results.getAnnIds(imgIds=["a.jpg"])), start=1):
        np.testing.assert_array_equal(coco_mask.decode(found["segmentation"]) == 1, numbers == number)
        assert found["category_id"] == 1 + prediction("a.jpg", 3).labels[number - 1]
        assert tuple(found["bbox"]) == (5, 10 * number - 10, 2 + number, 4)


def test_the_main_mask_is_the_best_object_that_reaches_the_threshold() -> None:
    found = prediction("a.jpg", 3)
    mask, what = OWN.main_mask(found[np.array([2, 0, 1])])  # whatever their order
    np.testing.assert_array_equal(mask, rle.decode(found.masks[0]) > 0)
    assert what == f"{NAMES[found.labels[0]]}, score 0.95"
    nothing = make({"task.score_threshold": 0.99}).main_mask(found)
    assert (nothing.mask.shape, nothing.mask.any(), nothing.what) == (SIZE, False, "")
