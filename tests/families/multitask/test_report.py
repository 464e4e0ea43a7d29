from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

import polymask
from polymask import cli
from polymask.data.module import DataModule
from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError
from polymask.factories import rebuild
from polymask.families.base import Family
from polymask.reporting.rows import read_samples
from polymask.training.checkpoint import load_checkpoint

CLASSES = ["MEL", "NV", "BKL"]
GRID = (32, 48)


@pytest.fixture
def results(trained: Path) -> Path:
    return trained / "results" / "test" / "tiny"


@pytest.fixture
def values(results: Path) -> dict[str, dict[str, float]]:
    return json.loads((results / "metrics.json").read_text())["metrics"]


@pytest.fixture
def table(results: Path) -> pd.DataFrame:
    return pd.read_csv(results / "per_sample.csv")


@pytest.fixture
def truth(trained: Path) -> pd.DataFrame:
    """The test samples as the data set's own table and the split file have them, sorted by id."""
    (split,) = trained.glob("outputs/*/*/split.csv")
    subset = pd.read_csv(split).set_index("id")["subset"]
    lesions = pd.read_csv(trained / "lesions" / "metadata.csv").sort_values("image_id")
    return lesions[lesions["image_id"].map(subset) == "test"].reset_index(drop=True)


def masks_of(trained: Path, results: Path, ids: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return true and predicted bool masks at the images' own size, from the files."""
    pairs = []
    for name in ids:
        path = trained / "lesions" / "masks" / f"{name}_segmentation.png"
        true = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127
        predicted = cv2.imread(str(results / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert predicted.shape == true.shape
        assert set(np.unique(predicted)) <= {0, 255}
        pairs.append((true, predicted == 255))
    return pairs


def masks_on_grid(trained: Path, ids: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return true and predicted bool masks on the grid, from the network and the data set."""
    predictor = polymask.load("tiny", device="cpu", precision="fp32")
    paths = [trained / "lesions" / "images" / f"{name}.jpg" for name in ids]
    own = predictor.application
    batch = own.collate(ids, [own.read(path)[0] for path in paths])
    pairs = []
    for name, prediction in zip(ids, predictor.predict_batch(batch), strict=True):
        path = trained / "lesions" / "masks" / f"{name}_segmentation.png"
        true = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255
        small = cv2.resize(true, GRID[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        pairs.append((small == 1, prediction.mask_probabilities[0].numpy() > 0.5))
    return pairs


def test_the_table_has_every_test_sample(table: pd.DataFrame, truth: pd.DataFrame) -> None:
    assert list(table["id"]) == list(truth["image_id"])
    assert list(table["group"]) == list(truth["lesion_id"])
    assert list(table["label"]) == list(truth["dx"].str.upper())


@pytest.mark.parametrize("end", ["", "_original"])
def test_masks_tables_and_metrics_agree(
    end: str, trained: Path, results: Path, table: pd.DataFrame, values: dict[str, dict[str, float]]
) -> None:
    ids = table["id"].tolist()
    counts, dice, iou = [], [], []
    for true, predicted in masks_of(trained, results, ids) if end else masks_on_grid(trained, ids):
        counts.append([(true & predicted).sum(), (predicted & ~true).sum(), (true & ~predicted).sum()])
        dice.append(2 * (true & predicted).sum() / (true.sum() + predicted.sum()))
        iou.append((true & predicted).sum() / (true | predicted).sum())
    columns = ["true_positive_pixels", "false_positive_pixels", "false_negative_pixels"]
    if not end:
        np.testing.assert_array_equal(table[columns], counts)
    np.testing.assert_allclose(table[f"dice_lesion{end}"], dice, rtol=1e-12)
    np.testing.assert_allclose(table[f"iou_lesion{end}"], iou, rtol=1e-12)
    hits, alarms, misses = np.sum(counts, axis=0)
    expected = {
        "dice_lesion_image": np.mean(dice),
        "iou_lesion_image": np.mean(iou),
        "iou_thresholded_lesion_image": np.mean([value if value >= 0.65 else 0 for value in iou]),
        "dice_lesion_pooled": 2 * hits / (2 * hits + alarms + misses),
        "iou_lesion_pooled": hits / (hits + alarms + misses),
    }
    for name, value in expected.items():
        assert values[f"{name}{end}"]["value"] == pytest.approx(value), name


def test_class_metrics_are_those_of_scikit_learn(
    results: Path, table: pd.DataFrame, truth: pd.DataFrame, values: dict[str, dict[str, float]]
) -> None:
    labels = truth["dx"].str.upper().map(CLASSES.index).to_numpy()
    probabilities = table[[f"probability_{name}" for name in CLASSES]].to_numpy()
    predicted = probabilities.argmax(axis=1)
    assert list(table["predicted"]) == [CLASSES[index] for index in predicted]
    np.testing.assert_array_equal(table["correct"], labels == predicted)
    np.testing.assert_allclose(table["confidence"], probabilities.max(axis=1), atol=1e-7)
    one_hot = np.eye(len(CLASSES))[labels]
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "auroc_macro": metrics.roc_auc_score(one_hot, probabilities, average="macro"),
        "average_precision_macro": metrics.average_precision_score(one_hot, probabilities, average="macro"),
    }
    for average in ("macro", "weighted"):
        scores = metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            expected[f"{name}_{average}"] = score
    for index, name in enumerate(CLASSES):
        expected[f"recall_{name}"] = (predicted[labels == index] == index).mean()
        expected[f"auroc_{name}"] = metrics.roc_auc_score(labels == index, probabilities[:, index])
    for name, value in expected.items():
        assert values[name]["value"] == pytest.approx(value), name
    text = metrics.classification_report(
        labels, predicted, target_names=CLASSES, digits=4, zero_division=0, labels=[0, 1, 2]
    )
    assert (results / "classification_report.txt").read_text() == text


def test_test_and_inference_say_the_same(trained: Path, table: pd.DataFrame) -> None:
    paths = [trained / "lesions" / "images" / f"{name}.jpg" for name in table["id"]]
    predictions = polymask.load("tiny", device="cpu", precision="fp32").predict(paths)
    found = [list(prediction.class_probabilities.values()) for prediction in predictions]
    np.testing.assert_allclose(table[[f"probability_{name}" for name in CLASSES]], found, atol=1e-5)


@pytest.mark.parametrize(
    ("metric", "column"), [("dice_lesion_image", "dice_lesion"), ("accuracy", "correct")]
)
def test_intervals_are_those_of_a_cluster_bootstrap(
    metric: str, column: str, table: pd.DataFrame, values: dict[str, dict[str, float]]
) -> None:
    groups = sorted(set(table["group"]))
    draws = np.random.default_rng(0).integers(len(groups), size=(1000, len(groups)))
    members = {name: table.loc[table["group"] == name, column].to_list() for name in groups}
    means = [np.mean([value for index in draw for value in members[groups[index]]]) for draw in draws]
    found = values[metric]
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert found["low"] < found["value"] < found["high"]


def test_every_interval_is_one(values: dict[str, dict[str, float]], results: Path) -> None:
    for name, entry in values.items():
        assert (entry["low"] is None) == (entry["value"] is None), name
        if entry["value"] is not None:
            most = np.hypot(48, 64) if name.startswith("hd95") else 2 if name == "brier" else 1
            assert 0 <= entry["low"] <= entry["high"] <= most, name
    content = json.loads((results / "metrics.json").read_text())
    assert (content["num_samples"], content["num_groups"], content["grid"]) == (9, 6, list(GRID))


def test_all_files_are_there_and_no_picture_is_blank(results: Path, table: pd.DataFrame) -> None:
    pictures = ["confusion_matrix.png", "roc_curves.png", "pr_curves.png", "training_curves.png"]
    pictures += ["calibration.png", "calibration_pixels.png", "risk_coverage.png"]
    tables = ["classification_report.txt", "metrics.json", "per_sample.csv", "samples.npz", "calibration.csv"]
    assert sorted(path.name for path in results.iterdir()) == sorted(
        [*pictures, *tables, "masks", "predictions", "report.html", "model_card.md"]
    )
    for path in [results / name for name in pictures] + list((results / "predictions").iterdir()):
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 150, path
        assert len(np.unique(image @ np.array([1, 256, 65536]))) > 20, path
        assert image.std() > 5, path
    assert {path.stem for path in (results / "masks").iterdir()} == set(table["id"])


def test_the_worst_cases_are_shown(results: Path, table: pd.DataFrame) -> None:
    shown = {path.stem for path in (results / "predictions").iterdir()}
    for number, name in enumerate(table.sort_values("dice_lesion")["id"][:8], start=1):
        assert f"worst_mask_{number}_{name}" in shown
    wrong = table[table["label"] != table["predicted"]].sort_values("confidence", ascending=False)
    assert len(wrong) > 0
    for number, name in enumerate(wrong["id"], start=1):
        assert f"worst_class_{number}_{name}" in shown
    assert sum(name.startswith("sample_") for name in shown) == 8
    assert len(shown) == 16 + len(wrong)


@pytest.fixture
def family_and_data(trained: Path) -> tuple[Family, DataModule]:
    """Those of the run, without a network: only files tell what was predicted."""
    run = rebuild(load_checkpoint(trained / "models" / "checkpoints" / "tiny.pt"))
    return run.family, run.build_data(split=split_from_csv(run.content["split"]))


def test_samples_hold_all_that_the_metrics_are_made_of(
    results: Path,
    table: pd.DataFrame,
    values: dict[str, dict[str, float]],
    family_and_data: tuple[Family, DataModule],
) -> None:
    rows, groups = read_samples(results)
    assert rows["ids"].tolist() == table["id"].tolist()
    assert groups == table["group"].tolist()
    found = family_and_data[0].scorer.metrics(rows, per_class=True)
    assert found.keys() == values.keys()
    for name, value in found.items():
        expected = values[name]["value"]
        assert np.isnan(value[0]) if expected is None else value[0] == pytest.approx(expected), name
    content = json.loads((results / "metrics.json").read_text())
    for name, loss in content["losses"].items():
        assert rows[name].mean() == pytest.approx(loss)


def test_a_new_report_draws_the_pictures_of_an_old_one(
    results: Path, table: pd.DataFrame, family_and_data: tuple[Family, DataModule]
) -> None:
    family, data = family_and_data
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    report = family.report(results, data)
    for path in (results / "predictions").iterdir():
        id_ = next(name for name in table["id"] if path.stem.endswith(name))
        drawn = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(report.picture(id_), drawn)
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_pictures_of_a_report_without_samples_say_what_to_do(
    results: Path, table: pd.DataFrame, family_and_data: tuple[Family, DataModule], tmp_path: Path
) -> None:
    old = shutil.copytree(results, tmp_path / "tiny")
    (old / "samples.npz").unlink()
    family, data = family_and_data
    with pytest.raises(UserError, match="run polymask test run_name=tiny first"):
        family.report(old, data).picture(table["id"][0])


def test_an_interrupted_report_leaves_the_old_results_whole(
    trained: Path, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)  # a run under Hydra replaces it
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    lesions = shutil.copytree(trained / "lesions", tmp_path / "lesions")
    options = [
        "run_name=tiny",
        f"data.data_dir={lesions}",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"local_save_dir={tmp_path / 'results'}",
        "data.eval_batch_size=2",
    ]
    folder = cli.run("test", options).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = pd.read_csv(folder / "per_sample.csv")
    pd.testing.assert_frame_equal(again, table, rtol=1e-4)  # other batches round differently

    last = lesions / "images" / f"{table['id'].iloc[-1]}.jpg"
    status = last.stat()
    last.write_bytes(bytes(status.st_size))  # unnoticed at the start: found when its picture is drawn
    os.utime(last, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="cannot read image"):
        cli.run("test", options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
