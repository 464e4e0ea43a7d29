"""Explanations of whole runs: in a test, in an inference, and of a task without masks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from configs import OBJECTS, composed
from omegaconf import OmegaConf
from torch import nn

import polymask
from polymask import cli
from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError
from polymask.factories import build_data, build_family, build_task, rebuild
from polymask.families.multitask import Family
from polymask.metrics.explanations import CHANCE, INSIDE, TIMES_CHANCE
from polymask.reporting.canvas import overlay_heat
from polymask.reporting.course import Course
from polymask.reporting.rows import read_samples
from polymask.studies.comparison.sides import align, make_side
from polymask.studies.tested_run import read_tested_run
from polymask.training.checkpoint import load_checkpoint
from polymask.training.trainer import Trainer
from polymask.utils import paths

CPU = {"device": "cpu", "precision": "fp32"}
CLASSES = ["MEL", "NV", "BKL"]
CHECKPOINT = Path("models", "checkpoints", "tiny.pt")


@pytest.fixture(scope="module")
def _explained(_trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("explained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", _trained_once)
        patch.setattr(sys, "argv", sys.argv)  # a run under Hydra replaces it
        return cli.run("test", ["run_name=tiny", "explain=true", f"local_save_dir={place}"]).folder


@pytest.fixture
def explained(_explained: Path, trained: Path) -> Path:
    """The report of a test of `tiny` with explanations."""
    return _explained


def shares(heat: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return the share of a map's mass, and of the area, where a mask is not 0."""
    return float(heat[mask > 0].sum() / heat.sum()), float((mask > 0).mean())


def heat_of(folder: Path, name: str) -> np.ndarray:
    return cv2.imread(str(folder / "explanations" / f"{name}.png"), cv2.IMREAD_UNCHANGED) / 255


def true_mask(lesions: Path, name: str) -> np.ndarray:
    return cv2.imread(str(lesions / "masks" / f"{name}_segmentation.png"), cv2.IMREAD_GRAYSCALE)


def test_what_a_test_measures_stays_the_same_bit_for_bit(explained: Path, trained: Path) -> None:
    (rows, groups), (plain, of_plain) = map(read_samples, (explained, trained / "results/test/tiny"))
    assert rows.keys() - plain.keys() == {INSIDE, CHANCE}
    assert groups == of_plain
    for name, values in plain.items():
        np.testing.assert_array_equal(rows[name], values, err_msg=name)
    for path in (trained / "results/test/tiny/masks").iterdir():
        assert path.read_bytes() == (explained / "masks" / path.name).read_bytes()


def test_shares_are_those_of_the_maps_and_the_true_masks(explained: Path, trained: Path) -> None:
    table = pd.read_csv(explained / "per_sample.csv").set_index("id")
    metrics = json.loads((explained / "metrics.json").read_text())
    expected = []
    for name in table.index:
        heat, mask = heat_of(explained, name), true_mask(trained / "lesions", name)
        assert heat.shape == mask.shape == (48, 64)
        assert heat.max() > 0.9
        expected.append(shares(heat, mask))
    inside, chance = np.array(expected).T
    np.testing.assert_allclose(table["explanation_inside_lesion_original"], inside, atol=0.01)  # 8 bits
    np.testing.assert_allclose(table["explanation_chance_lesion_original"], chance)
    found = metrics["metrics"]
    assert found[INSIDE]["value"] == pytest.approx(table["explanation_inside_lesion_original"].mean())
    assert found[CHANCE]["value"] == pytest.approx(chance.mean())
    assert found[TIMES_CHANCE]["value"] == pytest.approx(found[INSIDE]["value"] / found[CHANCE]["value"])
    assert found[INSIDE]["low"] < found[INSIDE]["value"] < found[INSIDE]["high"]
    assert metrics["num_explained"] == len(table) == 9


def test_maps_are_seen_in_pictures_and_on_the_page(explained: Path, trained: Path) -> None:
    run = rebuild(load_checkpoint(trained / CHECKPOINT))
    data = run.build_data(split=split_from_csv(run.content["split"]))
    name = data.split.subsets["test"][0]
    of_now, before = (
        run.family.report(folder, data).picture(name) for folder in (explained, trained / "results/test/tiny")
    )
    assert of_now.shape[1] * 3 == before.shape[1] * 4
    assert of_now.shape[0] == before.shape[0]
    drawn = cv2.imread(str(next((explained / "predictions").glob(f"*_{name}.png"))))[..., ::-1]
    np.testing.assert_array_equal(drawn, of_now)
    page = (explained / "report.html").read_text(encoding="utf-8")
    assert "Where classes were seen" in page
    assert INSIDE in page
    assert cv2.imread(str(explained / "explanations.png")).std() > 5


def test_an_inference_explains_as_the_test_does(explained: Path, trained: Path, tmp_path: Path) -> None:
    images = trained / "lesions" / "images"
    options = ["run_name=tiny", f"data.data_dir={images}", f"local_save_dir={tmp_path}", "data.num_workers=0"]
    options += ["trainer.device=cpu", "trainer.precision=fp32"]
    folder = cli.run("infer", [*options, "explain=true"]).folder
    rows = pd.read_csv(folder / "predictions.csv").set_index("file")
    assert {path.stem for path in (folder / "explanations").iterdir()} == {
        Path(file).stem for file in rows.index
    }
    names = [path.stem for path in (explained / "explanations").iterdir()]
    found = polymask.load("tiny", explain=True, **CPU).predict([images / f"{name}.jpg" for name in names])
    for name, result in zip(names, found, strict=True):
        assert abs(result.explanation - heat_of(explained, name)).max() < 0.51 / 255 + 1e-4
        inside, _ = shares(result.explanation, result.mask)
        assert rows.loc[f"{name}.jpg", "explanation_inside"] == pytest.approx(inside, abs=1e-4)
        image = cv2.imread(str(images / f"{name}.jpg"))[..., ::-1]
        drawn = cv2.imread(str(folder / "explanations" / f"{name}.png"))[..., ::-1]
        assert abs(drawn.astype(int) - overlay_heat(image, result.explanation)).max() <= 2
    assert polymask.load("tiny", **CPU).predict(images / f"{names[0]}.jpg").explanation is None
    with pytest.raises(UserError, match="predictions made with another explain"):
        cli.run("infer", options)
    cli.run("infer", [*options, "overwrite=true", "overlay=false"])
    assert not (folder / "explanations").exists()
    assert "explanation_inside" not in pd.read_csv(folder / "predictions.csv")


def test_flipped_images_are_explained_by_the_mean_of_their_maps(trained: Path) -> None:
    image = cv2.imread(str(next((trained / "lesions" / "images").iterdir())))[..., ::-1].copy()
    own, turned = polymask.load("tiny", explain=True, tta=True, **CPU).predict(
        [image, image[::-1, ::-1].copy()]
    )
    np.testing.assert_allclose(own.explanation, turned.explanation[::-1, ::-1], atol=1e-3)
    plain = polymask.load("tiny", explain=True, **CPU).predict(image)
    assert abs(own.explanation - plain.explanation).max() > 0.05


def test_a_task_without_masks_is_measured_by_those_of_the_data(trained: Path, tmp_path: Path) -> None:
    """In letterboxes, of random weights; one image has no mask, and one an empty one."""
    lesions = shutil.copytree(trained / "lesions", tmp_path / "lesions")
    content = torch.load(trained / CHECKPOINT, weights_only=True)
    names = split_from_csv(content["split"]).subsets["test"]
    (lesions / "masks" / f"{names[0]}_segmentation.png").unlink()
    cv2.imwrite(str(lesions / "masks" / f"{names[1]}_segmentation.png"), np.zeros((48, 64), np.uint8))
    changes = {"task": {"predict_masks": False, "explain": True, "fit": "letterbox"}}
    changes |= {
        "data": {"fit": "letterbox", "image_size": [64, 64], "cache_dir": None, "data_dir": str(lesions)}
    }
    cfg = OmegaConf.merge(content["config"], changes)
    data = build_data(cfg, split=split_from_csv(content["split"]))
    torch.manual_seed(1)
    family = build_family(cfg, CLASSES)
    trainer = Trainer(epochs=1, **CPU)
    task = trainer.prepare(build_task(cfg, family, pretrained=False))
    folder = tmp_path / "report"
    report = family.report(folder, data)
    assert list(report.bulk_folders) == ["masks", "explanations"]
    rows = trainer.evaluate(task, data.evaluation_loader("test"), title="test", consume=report.add)
    rows = report.complete(rows)
    lines = report.finish(rows, Course(history=[], best_epoch=0))
    for name, inside, chance in zip(rows["ids"], rows[INSIDE], rows[CHANCE], strict=True):
        expected = (np.nan, np.nan)
        if name not in names[:2]:
            expected = shares(heat_of(folder, name), true_mask(lesions, name))
        assert (inside, chance) == pytest.approx(expected, abs=0.01, nan_ok=True)
    assert not (folder / "masks").exists()
    assert f"test/{INSIDE} {np.nanmean(rows[INSIDE]):.4f}" in "\n".join(lines)
    picture = report.picture(names[2])
    assert (picture[:, -picture.shape[1] // 4 :] == (0, 255, 0)).all(axis=-1).any()  # the true outline


def test_only_what_was_measured_in_both_tests_is_compared(explained: Path, trained: Path) -> None:
    run = rebuild(load_checkpoint(trained / CHECKPOINT))
    data = run.build_data(split=split_from_csv(run.content["split"]))
    one, other = (
        make_side(read_tested_run("tiny", test_dir=str(folder)), data)
        for folder in (explained.parent, trained / "results" / "test")
    )
    both, _, notes = align(one, one)
    assert not notes
    assert both.family.scorer.metrics(both.rows).keys() >= {INSIDE, CHANCE, TIMES_CHANCE}
    left, _, (note,) = align(one, other)
    assert INSIDE in note
    assert INSIDE not in left.family.scorer.metrics(left.rows)


def test_a_training_looks_at_explanations_only_at_its_end() -> None:
    family = Family(class_names=CLASSES, explain=True)
    parts = {"build_model": lambda **_: nn.Identity(), "build_loss": lambda **_: nn.Identity()}
    task = family.build_task(**parts, class_counts=[1, 1, 1])
    assert task.explainer is None
    family.decide({}, task)
    assert task.explainer is not None
    assert family.build_task(**parts, class_counts=None).explainer is not None
    assert Family(class_names=CLASSES).build_task(**parts, class_counts=None).explainer is None


def test_tasks_that_explain_nothing_refuse_it() -> None:
    with pytest.raises(
        UserError, match=r"explain=true is of no use to polymask\.families\.instances\.Family"
    ):
        build_family(composed(*OBJECTS, "explain=true"), ["A"])
    with pytest.raises(UserError, match="of which this run predicts none"):
        build_family(composed("task=segmentation", "explain=true"), [])
    assert build_family(composed("task=classification", "explain=true"), ["A", "B"]).explain
