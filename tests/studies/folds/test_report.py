from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask.studies.folds.gathering import FoldRun, Study, gather_folds
from polymask.studies.folds.report import write_summary

SCORES = {0: [0.5, 0.7], 1: [0.9, 0.7], 2: [1.0, 1.0]}


def run(model: str, fold: int, *, metric: str = "dice_lesion_image", num_folds: int | None = 3) -> FoldRun:
    def metrics(rows: dict[str, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
        weights = np.ones((1, len(rows["ids"]))) if weights is None else weights
        means = weights @ rows["score"] / weights.sum(axis=1)
        return {metric: means, "auroc_macro": means * np.nan}

    ids = [f"{fold}_{number}" for number in range(2)]
    rows = {"ids": np.array(ids), "score": np.array(SCORES[fold])}
    config = {"model.model": model, "data.num_folds": num_folds, "data.fold": fold}
    return FoldRun(name=f"{model}_{fold}", config=config, rows=rows, groups=ids, metrics=metrics)


def three_folds(model: str, metric: str = "dice_lesion_image") -> list[FoldRun]:
    return [run(model, fold, metric=metric) for fold in (0, 1, 2)]


@pytest.fixture
def studies() -> list[Study]:
    return gather_folds([*three_folds("unet"), *three_folds("attention_unet")])


def lines_of(folder: Path) -> list[str]:
    return (folder / "summary.txt").read_text(encoding="utf-8").splitlines()


def test_the_text_has_a_table_per_study_and_one_of_all(tmp_path: Path, studies: list[Study]):
    write_summary(tmp_path, studies)
    lines = lines_of(tmp_path)
    assert lines[0] == "unet: 3 of 3 folds, 6 test samples of 6 groups"
    assert lines[1] == "  unet_0, unet_1, unet_2"
    assert " ".join(lines[2].split()) == "metric mean ± std pooled [95 % interval] fold 0 fold 1 fold 2"
    # Folds 0.6, 0.8, 1.0: mean 0.8, deviation 0.2.
    name, *cells = lines[3].split()
    assert (name, cells[:4]) == ("dice_lesion_image", ["0.8000", "±", "0.2000", "0.8000"])
    assert cells[-3:] == ["0.6000", "0.8000", "1.0000"]
    assert lines[4].split() == ["auroc_macro", "-", "-", "-", "-", "-"]
    start = lines.index("All studies on the metrics that they share")
    table = [line.split() for line in lines[start + 1 :] if "0.2000" in line]
    assert [row[:-6] for row in table] == [["dice_lesion_image", "unet", "3"], ["attention_unet", "3"]]


def test_a_single_run_stands_without_deviation_and_without_a_table_of_all(tmp_path: Path):
    write_summary(tmp_path, gather_folds([run("unet", 1, num_folds=None)]))
    lines = lines_of(tmp_path)
    assert lines[0] == "unet: one run, 2 test samples of 2 groups"
    assert lines[3].split()[:3] == ["dice_lesion_image", "0.8000", "0.8000"]
    assert not any(line.startswith("All studies") for line in lines)
    assert "fold" not in lines[2]


def test_notes_stand_with_what_they_are_about(tmp_path: Path):
    write_summary(tmp_path, gather_folds([*three_folds("unet"), run("attention_unet", 0)]))
    text = (tmp_path / "summary.txt").read_text(encoding="utf-8")
    head, _, rest = text.partition("attention_unet: ")
    assert "note" not in head
    assert rest.splitlines()[2].startswith("  note: folds 1, 2 are missing")
    assert "6 of unet, 2 of attention_unet; 2 in common" in rest.partition("All studies")[2]


def test_studies_without_a_shared_metric_say_so(tmp_path: Path):
    other = [
        FoldRun(**{**vars(own), "metrics": lambda rows, weights: {"mask_ap": np.array([0.5])}})
        for own in three_folds("mask_rcnn")
    ]
    write_summary(tmp_path, gather_folds([*three_folds("unet"), *other]))
    assert "  They share no metric." in lines_of(tmp_path)
    assert (tmp_path / "summary.png").is_file()


def test_the_table_has_a_line_per_study_and_metric(tmp_path: Path):
    write_summary(tmp_path, gather_folds([*three_folds("unet"), run("smp", 1, num_folds=None)]))
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["study"], row["metric"], row["num_runs"]) for row in rows] == [
        ("unet", "dice_lesion_image", "3"),
        ("unet", "auroc_macro", "3"),
        ("smp", "dice_lesion_image", "1"),
        ("smp", "auroc_macro", "1"),
    ]
    numbers = [float(rows[0][name]) for name in ("mean", "std", "pooled", "fold_0", "fold_1", "fold_2")]
    assert numbers == pytest.approx([0.8, 0.2, 0.8, 0.6, 0.8, 1.0])
    assert float(rows[0]["low"]) < 0.8 < float(rows[0]["high"])
    assert [rows[2][name] for name in ("std", "fold_0", "fold_1", "fold_2")] == ["", "", "", ""]
    assert rows[1]["mean"] == ""


def test_the_numbers_are_valid_json_and_go_to_the_tracker(tmp_path: Path, studies: list[Study]):
    metrics = write_summary(tmp_path, studies)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert list(content["studies"]) == ["unet", "attention_unet"]
    unet = content["studies"]["unet"]
    assert unet["runs"] == {"unet_0": 0, "unet_1": 1, "unet_2": 2}
    assert (unet["num_samples"], unet["num_groups"]) == (6, 6)
    assert unet["metrics"]["dice_lesion_image"]["values"] == pytest.approx([0.6, 0.8, 1.0])
    assert unet["metrics"]["auroc_macro"]["mean"] is None
    assert content["shared_metrics"] == ["dice_lesion_image", "auroc_macro"]
    assert metrics["unet/dice_lesion_image_mean"] == pytest.approx(0.8)
    assert metrics["attention_unet/dice_lesion_image_std"] == pytest.approx(0.2)
    assert math.isnan(metrics["unet/auroc_macro_pooled"])


@pytest.mark.parametrize(
    ("num_models", "metric"), [(1, "dice_lesion_image"), (3, "dice_lesion_image"), (2, "my_score")]
)
def test_the_figure_has_every_fold_of_every_study_in_its_colour(tmp_path: Path, num_models: int, metric: str):
    models = ["unet", "attention_unet", "residual $dynunet$ with a name that needs several lines of text"]
    runs = [own for model in models[:num_models] for own in three_folds(model, metric)]
    write_summary(tmp_path, gather_folds(runs))
    picture = cv2.imread(str(tmp_path / "summary.png"))[..., ::-1]
    for number, colour in enumerate(((0, 114, 178), (213, 94, 0), (0, 158, 115))):
        painted = (np.abs(picture.astype(int) - colour).max(axis=2) < 8).any()
        assert painted == (number < num_models)
