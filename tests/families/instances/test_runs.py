"""Instance segmentation from the command line: train, test, infer, compare, analyze."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from instance_files import CATEGORY_IDS, CLASSES, write_coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polymask import cli
from polymask.data.images import read_image
from polymask.utils import paths

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2

NAMES = [CLASSES[0], CLASSES[2], CLASSES[1]]  # in the order of their category ids
TERMS = ("loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
OPTIONS = [
    "experiment=mask_rcnn",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.fractions=[0.5,0.25,0.25]",
    "data.reader.group_pattern='(.+)_tile'",
    "data.pixel_size=0.5",
    "model.backbone=tu-test_resnet",
    "model.weights=null",
    "model.min_size=64",
    "model.max_size=96",
    "model.channels=32",
    "model.hidden_size=16",
    "model.anchor_sizes=[8,12,16,24,32]",
    "model.aspect_ratios=[1.0]",
    "model.boxes_per_image=32",
    "model.detections_per_image=10",
    "model.score_threshold=0.01",
    "task.score_threshold=0.2",
    "optimizer.learning_rate=3.0e-3",
    "scheduler=none",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
]


@dataclass(frozen=True)
class Runs:
    """A project with the runs `whole` (3 epochs) and `short` (2)."""

    root: Path
    data: Path
    whole: Any


@pytest.fixture(scope="session")
def _runs_once(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("instances")
    data = write_coco(root / "coco", num_images=24)
    options = [f"data.data_dir={data}", *OPTIONS]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paths, "PROJECT_ROOT", root)
            whole = cli.run("train", [*options, "run_name=whole", "epochs=3"])
            cli.run("train", [*options, "run_name=short", "epochs=2", "seed=1"])
    finally:
        torch.set_num_threads(threads)
    return Runs(root, data, whole)


@pytest.fixture
def runs(_runs_once: Runs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setattr(paths, "PROJECT_ROOT", _runs_once.root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield _runs_once
    torch.set_num_threads(threads)


def test_every_epoch_has_the_losses_of_training_and_validation(runs: Runs) -> None:
    history = runs.whole.state.history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for row in history:
        assert {f"train/{name}" for name in TERMS} | {f"val/{name}" for name in TERMS} <= row.keys()


def test_a_run_does_not_go_on_with_other_classes(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class fewer would give the others new numbers, under which they would be trained as each other."""
    root = shutil.copytree(runs.root / "models", tmp_path / "models").parent
    data = shutil.copytree(runs.data, root / "coco")
    content = json.loads((data / "annotations.json").read_text())
    gone = next(entry["id"] for entry in content["categories"] if entry["name"] == NAMES[1])
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != gone]
    content["categories"] = [one for one in content["categories"] if one["id"] != gone]
    (data / "annotations.json").write_text(json.dumps(content))
    monkeypatch.setattr(paths, "PROJECT_ROOT", root)
    before = (root / "models/checkpoints/short.last.pt").read_bytes()
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "resume=true", "run_name=short", f"data.data_dir={data}", "epochs=3"])
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"trained on the classes {', '.join(NAMES)}, but" in message
    assert (root / "models/checkpoints/short.last.pt").read_bytes() == before


def test_a_test_gives_the_numbers_of_the_training(runs: Runs) -> None:
    result = cli.run("test", ["run_name=whole", "local_save_dir=again"])
    assert result.folder == runs.root / "again/whole"
    np.testing.assert_equal(result.metrics, runs.whole.test_metrics)
    for folder in ("again", "results/test"):
        content = json.loads((runs.root / folder / "whole" / "metrics.json").read_text())
        losses = {key: {"value": value} for key, value in content["losses"].items()}
        written = content["metrics"] | losses
        assert written.keys() == result.metrics.keys()
        for key, value in result.metrics.items():
            assert written[key]["value"] == (None if math.isnan(value) else pytest.approx(value)), key


def test_report_holds_every_file_and_pycocotools_agrees(runs: Runs) -> None:
    folder = runs.root / "results/test/whole"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("metrics.json", "per_sample.csv", "samples.npz", "instances.json", "instances.csv"),
        *("pr_curves.png", "confusion_matrix.png", "training_curves.png", "score_thresholds.csv"),
        "calibration_objects.png",
        *("label_maps", "overlays", "predictions", "report.html", "model_card.md"),
    }
    tested = pd.read_csv(folder / "per_sample.csv")["id"].tolist()
    for kind in ("label_maps", "overlays"):
        assert sorted(path.stem for path in (folder / kind).iterdir()) == tested
    for name in ("pr_curves.png", "confusion_matrix.png"):
        assert cv2.imread(str(folder / name)).std() > 5
    truth = COCO(str(runs.data / "annotations.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "instances.json")), "segm")
    evaluation.params.imgIds = [key for key, image in truth.imgs.items() if image["file_name"][:-4] in tested]
    assert len(evaluation.params.imgIds) == len(tested) > 4
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[1] > 0.01  # something was found, so that there is something to compare
    for key, value in zip(("mask_ap", "mask_ap50", "mask_ap75"), evaluation.stats, strict=False):
        assert runs.whole.test_metrics[key] == pytest.approx(value, abs=1e-9)
    check_objects(folder, runs.data / "images", pixel_size=0.5, suffix="")


def check_objects(folder: Path, images: Path, *, pixel_size: float, suffix: str) -> None:
    """Compare instances.csv with instances.json and with the label maps, which have the images' own sizes."""
    table = pd.read_csv(folder / "instances.csv")
    assert len(table) > 5
    assert (table["score"] >= 0.2).all()
    area = table["area_pixels"].to_numpy()
    np.testing.assert_allclose(table["equivalent_diameter_pixels"], np.sqrt(4 * area / np.pi), atol=1e-3)
    np.testing.assert_allclose(table["area_um2"], area * pixel_size**2, rtol=1e-5)
    np.testing.assert_allclose(
        table["equivalent_diameter_um"], np.sqrt(4 * area / np.pi) * pixel_size, rtol=1e-5
    )
    for path in (folder / "label_maps").iterdir():
        numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        picture = cv2.imread(str(images / f"{path.stem}.png"))
        assert (numbers.shape, numbers.dtype) == (picture.shape[:2], np.uint16)
        rows = table[table["image"] == path.stem + suffix].set_index("id")
        assert set(np.unique(numbers)) - {0} <= set(rows.index)
        for number, row in rows.iterrows():
            pixels = int((numbers == number).sum())
            assert pixels <= row["area_pixels"]
            if number == 1:  # the surest object lies on top
                assert pixels == row["area_pixels"]


def test_infer_writes_the_files_of_every_image(runs: Runs) -> None:
    images = runs.data / "images"
    result = cli.run("infer", ["run_name=whole", f"data.data_dir={images}", "data.num_workers=0"])
    assert (result.predicted, result.skipped) == (24, 0)
    folder = result.folder
    assert folder == runs.root / "results/inference/whole"
    stems = sorted(path.stem for path in images.iterdir())
    for kind in ("label_maps", "overlays"):
        assert sorted(path.stem for path in (folder / kind).iterdir()) == stems
    check_objects(folder, images, pixel_size=0.5, suffix=".png")
    truth = COCO()
    truth.dataset = {
        "images": [
            dict(zip(("height", "width"), read_image(images / f"{stem}.png").shape[:2], strict=True))
            | {"id": f"{stem}.png"}
            for stem in stems
        ],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }
    truth.createIndex()
    found = truth.loadRes(str(folder / "instances.json"))
    table = pd.read_csv(folder / "instances.csv")
    for stem in stems:
        objects = found.imgToAnns[f"{stem}.png"]
        sure = sorted(
            (entry for entry in objects if entry["score"] >= 0.2), key=lambda entry: -entry["score"]
        )
        rows = table[table["image"] == f"{stem}.png"]
        assert rows["area_pixels"].tolist() == [int(found.annToMask(entry).sum()) for entry in sure]
        assert rows["class"].tolist() == [NAMES[entry["category_id"] - 1] for entry in sure]
    again = cli.run("infer", ["run_name=whole", f"data.data_dir={images}", "data.num_workers=0"])
    assert (again.predicted, again.skipped) == (0, 24)


def test_pixel_size_is_given_to_a_test(runs: Runs) -> None:
    options = ["run_name=whole", "data.num_workers=0", "local_save_dir=tested_again"]
    result = cli.run("test", [*options, "+data.pixel_size=2.0"])
    check_objects(result.folder, runs.data / "images", pixel_size=2.0, suffix="")


def test_pixel_size_of_other_photographs_is_given_to_infer(runs: Runs) -> None:
    options = [
        "run_name=whole",
        f"data.data_dir={runs.data / 'images'}",
        "data.num_workers=0",
        "overlay=false",
    ]
    result = cli.run("infer", [*options, "local_save_dir=other_scale", "data.pixel_size=2.0"])
    assert not (result.folder / "overlays").exists()
    check_objects(result.folder, runs.data / "images", pixel_size=2.0, suffix=".png")


def test_score_threshold_of_an_inference(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "run_name=whole",
        f"data.data_dir={runs.data / 'images'}",
        "data.num_workers=0",
        "overlay=false",
        "local_save_dir=surer",
    ]
    folder = cli.run("infer", [*options, "task.score_threshold=0.0"]).folder
    everything = json.loads((folder / "instances.json").read_text())
    assert len(pd.read_csv(folder / "instances.csv")) == len(everything) > 0
    with pytest.raises(SystemExit):  # label maps of two thresholds do not mix
        cli.main(["infer", *options, "task.score_threshold=1.0"])
    assert "made with another task.score_threshold" in capsys.readouterr().err
    cli.run("infer", [*options, "task.score_threshold=1.0", "overwrite=true"])
    assert len(pd.read_csv(folder / "instances.csv")) == sum(entry["score"] >= 1 for entry in everything)


def test_compare_of_two_runs(runs: Runs) -> None:
    result = cli.run(
        "compare",
        ["short", "whole", "num_replicates=50", "num_permutations=50", "num_pictures=2", "tracker=none"],
    )
    table = pd.read_csv(result.folder / "comparison.csv", index_col="metric")
    assert {"mask_ap50", "box_ap", "dice_lesion_image", "count_error", "f1_at_score"} <= set(table.index)
    for side, name in (("a", "short"), ("b", "whole")):
        stored = json.loads((runs.root / f"results/test/{name}/metrics.json").read_text())["metrics"]
        for metric, row in table.iterrows():
            value = stored[str(metric)]["value"]
            assert row[side] == pytest.approx(math.nan if value is None else value, nan_ok=True), metric
    np.testing.assert_allclose(table["difference"], table["b"] - table["a"], atol=1e-12)
    assert len(list((result.folder / "pictures").iterdir())) == 2
    text = (result.folder / "comparison.txt").read_text()
    assert "short" in text
    assert "splits differ" not in text


def test_analyze_counts_the_objects_of_the_annotation_file(runs: Runs) -> None:
    options = ["data=coco", f"data.data_dir={runs.data}", "transforms=instance", "tracker=none"]
    result = cli.run("analyze", [*options, "num_samples=4", "num_augmented=2", "run_name=look"])
    content = json.loads((runs.data / "annotations.json").read_text())
    single = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    rows = pd.read_csv(result.folder / "classes.csv")
    counts = rows.groupby("class")[[name for name in rows.columns if rows[name].dtype.kind == "i"]].sum()
    for name, category in zip(CLASSES, CATEGORY_IDS, strict=True):
        assert sum(entry["category_id"] == category for entry in single) in counts.loc[name].tolist()
    per_image = pd.read_csv(result.folder / "per_image.csv")
    sizes = {image["file_name"][:-4]: (image["height"], image["width"]) for image in content["images"]}
    found = {row["id"]: (row["height"], row["width"]) for row in per_image.to_dict("records")}
    assert found == sizes
    assert per_image["num_objects"].sum() == len(single)
    assert {"image_sizes.png", "classes.png", "mask_coverage.png", "samples.png", "augmentations.png"} <= {
        path.name for path in result.folder.iterdir()
    }


def test_a_set_that_lacks_a_class_of_the_run_is_tested_with_the_classes_of_the_run(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_coco(tmp_path / "other", seed=5)
    content = json.loads((other / "annotations.json").read_text())
    content["categories"] = [entry for entry in content["categories"] if entry["name"] != NAMES[0]]
    ids = {entry["id"] for entry in content["categories"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in ids]
    (other / "annotations.json").write_text(json.dumps(content))
    rows = [f"{Path(image['file_name']).stem},test" for image in content["images"]]
    (tmp_path / "split.csv").write_text("\n".join(["id,subset", *rows]) + "\n")
    result = cli.run(
        "test",
        [
            "run_name=whole",
            f"data.data_dir={other}",
            f"data.split_file={tmp_path / 'split.csv'}",
            f"local_save_dir={tmp_path / 'results'}",
        ],
    )
    assert f"no object is of the class {NAMES[0]}, which is absent" in capsys.readouterr().out
    assert math.isnan(result.metrics[f"mask_ap_{NAMES[0]}"])
    with np.load(result.folder / "samples.npz") as samples:
        counts = samples["num_true"][:, :, 0].sum(axis=0)  # per class of the run
    category_of = dict(zip(CLASSES, CATEGORY_IDS, strict=True))
    objects = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    expected = [sum(entry["category_id"] == category_of[name] for entry in objects) for name in NAMES]
    assert counts.tolist() == expected
    assert expected[0] == 0 < min(expected[1:])
