from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from polymask.data.splits.split import split_from_csv
from polymask.factories import build_data, build_family, build_task
from polymask.reporting.course import Course
from polymask.training.trainer import Trainer

CLASSES = ["MEL", "NV", "BKL"]
OF_CLASSES = {"classification_report.txt", "confusion_matrix.png", "roc_curves.png", "pr_curves.png"}
OF_CLASSES |= {"calibration.csv", "calibration.png", "risk_coverage.png"}
OF_MASKS = {"masks", "calibration.csv", "calibration_pixels.png"}
OF_ALL = {"metrics.json", "per_sample.csv", "samples.npz", "predictions"}


@dataclass
class Written:
    """What a report left behind."""

    folder: Path
    metrics: dict[str, float]
    summary: list[str]

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    @property
    def values(self) -> dict[str, float | None]:
        def forbid(word: str) -> None:
            pytest.fail(f"{word} is not JSON")

        content = json.loads((self.folder / "metrics.json").read_text(), parse_constant=forbid)
        return {name: entry["value"] for name, entry in content["metrics"].items()}

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "per_sample.csv", keep_default_na=False, na_values=[""])

    def shown(self, kind: str) -> set[str]:
        return {path.stem.split("_", 3)[-1] for path in (self.folder / "predictions").glob(f"{kind}_*")}


def report(
    trained: Path,
    tmp_path: Path,
    *overrides: str,
    lesions: Path | None = None,
    precision: str = "fp32",
) -> Written:
    """Report on the test subset of `tiny` with random weights."""
    content = torch.load(trained / "models" / "checkpoints" / "tiny.pt", weights_only=True)
    cfg = OmegaConf.merge(content["config"], OmegaConf.from_dotlist(list(overrides)))
    cfg.data.cache_dir = None
    cfg.data.data_dir = str(lesions or trained / "lesions")
    data = build_data(cfg, split=split_from_csv(content["split"]))
    torch.manual_seed(1)
    family = build_family(cfg, CLASSES)
    task = build_task(cfg, family, pretrained=False)
    trainer = Trainer(epochs=1, device="cpu", precision=precision)
    trainer.prepare(task)
    folder = tmp_path / "report"
    writer = family.report(folder, data)
    rows = trainer.evaluate(task, data.evaluation_loader("test"), title="test", consume=writer.add)
    rows = writer.complete(rows)
    lines = writer.finish(rows, Course(history=[], best_epoch=0))
    return Written(folder, family.scorer.point_estimates(rows), lines)


@pytest.fixture
def lesions(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained / "lesions", tmp_path / "lesions")


@pytest.fixture
def ids_of_test(trained: Path) -> list[str]:
    return pd.read_csv(trained / "results" / "test" / "tiny" / "per_sample.csv")["id"].tolist()


def remove_masks(lesions: Path, ids: Sequence[str]) -> None:
    for name in ids:
        (lesions / "masks" / f"{name}_segmentation.png").unlink()


def remove_labels(lesions: Path, ids: Sequence[str]) -> None:
    table = pd.read_csv(lesions / "metadata.csv")
    table.loc[table["image_id"].isin(ids), "dx"] = ""
    table.to_csv(lesions / "metadata.csv", index=False)


def true_mask(lesions: Path, name: str) -> np.ndarray:
    mask = cv2.imread(str(lesions / "masks" / f"{name}_segmentation.png"), cv2.IMREAD_GRAYSCALE)
    return (mask > 127).astype(np.uint8)


def check_values(written: Written) -> None:
    """Whatever `test` returns stands in the file, too."""
    for name, value in written.metrics.items():
        if not name.startswith("loss"):
            assert written.values[name] == (None if np.isnan(value) else value)


def test_segmentation_alone(trained: Path, tmp_path: Path, ids_of_test: list[str]) -> None:
    written = report(trained, tmp_path, "task.predict_classes=false")
    check_values(written)
    assert written.names == OF_ALL | OF_MASKS
    scores = ("dice_lesion", "iou_lesion", "pixel_accuracy")
    names = {f"{score}_{average}" for score in scores for average in ("image", "pooled")}
    names |= {"iou_thresholded_lesion_image"}
    names |= {f"{name}_original" for name in names}
    names |= {"hd95_px_lesion_image_original", "ece_lesion_pooled", "brier_lesion_pooled"}
    assert set(written.values) == names
    assert set(written.table["id"]) == {path.stem for path in (written.folder / "masks").iterdir()}
    assert not [name for name in written.table if name.startswith(("probability", "label", "predicted"))]
    assert written.shown("worst_mask") <= set(ids_of_test)
    assert [line.split()[0] for line in written.summary] == [
        "test/dice_lesion_image",
        "test/iou_lesion_image",
        "test/dice_lesion_image_original",
        "test/iou_lesion_image_original",
        "test/num_empty_masks",
    ]


def test_classification_alone(trained: Path, tmp_path: Path) -> None:
    written = report(trained, tmp_path, "task.predict_masks=false")
    check_values(written)
    assert written.names == OF_ALL | OF_CLASSES
    assert not [name for name in [*written.values, *written.table] if "dice" in name or "iou" in name]
    assert written.values["accuracy"] == pytest.approx(written.table["correct"].mean())
    assert [line.split()[0] for line in written.summary] == [
        "test/balanced_accuracy",
        "test/f1_macro",
        "test/auroc_macro",
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # in bf16 classes often tie
def test_multiclass_masks(trained: Path, tmp_path: Path, ids_of_test: list[str], precision: str) -> None:
    changes = ["data.segmentation=multiclass", "task.segmentation=multiclass"]
    written = report(trained, tmp_path, *changes, precision=precision)
    check_values(written)
    labels = dict(zip(written.table["id"], written.table["label"], strict=True))
    counts = np.zeros((4, 3), int)  # of each class: hits, pixels found, pixels there
    for name in ids_of_test:
        found = cv2.imread(str(written.folder / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        there = true_mask(trained / "lesions", name) * (1 + CLASSES.index(labels[name]))
        for index in range(4):
            hits = (found == index) & (there == index)
            counts[index] += hits.sum(), (found == index).sum(), (there == index).sum()
    assert np.count_nonzero(counts[:, 1]) > 1
    for index, name in enumerate(CLASSES, start=1):
        hits, found, there = counts[index]
        assert written.values[f"dice_{name}_pooled_original"] == pytest.approx(2 * hits / (found + there))


def test_samples_without_masks_or_labels_are_left_out_where_they_lack_them(
    trained: Path, tmp_path: Path, lesions: Path, ids_of_test: list[str]
) -> None:
    unmasked, unlabelled = ids_of_test[:2], ids_of_test[1:4]
    remove_masks(lesions, unmasked)
    remove_labels(lesions, unlabelled)
    written = report(trained, tmp_path, lesions=lesions)
    check_values(written)
    table = written.table.set_index("id")
    assert list(table.index) == ids_of_test
    for column in ("dice_lesion", "dice_lesion_original"):
        assert table[column].isna().to_list() == [name in unmasked for name in ids_of_test]
    assert table["label"].isna().to_list() == [name in unlabelled for name in ids_of_test]
    assert (table.loc[unlabelled, "correct"] == -1).all()
    dice = []
    for name in ids_of_test[2:]:
        found = cv2.imread(str(written.folder / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED) == 255
        there = true_mask(lesions, name) == 1
        dice.append(2 * (found & there).sum() / (found.sum() + there.sum()))
    assert written.values["dice_lesion_image_original"] == pytest.approx(np.mean(dice))
    known = table.drop(index=unlabelled)
    assert written.values["accuracy"] == pytest.approx((known["label"] == known["predicted"]).mean())
    assert not written.shown("worst_mask") & set(unmasked)
    assert not written.shown("worst_class") & set(unlabelled)
    assert {path.stem for path in (written.folder / "masks").iterdir()} == set(ids_of_test)


def test_a_test_subset_without_any_mask_or_label(
    trained: Path, tmp_path: Path, lesions: Path, ids_of_test: list[str]
) -> None:
    remove_masks(lesions, ids_of_test)
    remove_labels(lesions, ids_of_test)
    written = report(trained, tmp_path, lesions=lesions)
    assert written.names == OF_ALL | {"masks"}
    assert written.values == dict.fromkeys(written.values)
    assert written.table["dice_lesion"].isna().all()
    assert written.shown("sample")
    assert not written.shown("worst_mask") | written.shown("worst_class")


def test_empty_true_masks_are_counted_in_metrics_table_and_summary(
    trained: Path, tmp_path: Path, ids_of_test: list[str]
) -> None:
    lesions = shutil.copytree(trained / "lesions", tmp_path / "lesions")
    for name in ids_of_test[:3]:
        path = lesions / "masks" / f"{name}_segmentation.png"
        cv2.imwrite(str(path), np.zeros((48, 64), np.uint8))
    written = report(trained, tmp_path, lesions=lesions)
    content = json.loads((written.folder / "metrics.json").read_text())
    assert (content["num_masks"], content["num_empty_masks"]) == (len(ids_of_test), 3)
    assert written.metrics["num_empty_masks"] == 3
    assert content["num_hd95"] == written.table["hd95_px_lesion_original"].count() <= len(ids_of_test) - 3
    assert "num_empty_masks" not in written.values
    assert set(written.table["id"][written.table["true_mask_empty"] == 1]) == set(ids_of_test[:3])
    assert f"test/num_empty_masks 3 of {len(ids_of_test)}" in written.summary[-1]
