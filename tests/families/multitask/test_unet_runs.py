"""Cross-validation of the U-Net family as a sweep, and its summary beside Mask R-CNN."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from instance_files import write_coco

from polymask import cli
from polymask.utils import paths

NUM_IMAGES = 12
SHARED = ("dice_lesion_image", "dice_lesion_pooled", "iou_lesion_image", "iou_lesion_pooled")
FOLDS = ["data.num_folds=3", "data.num_workers=0", "trainer.device=cpu", "trainer.precision=fp32", "epochs=2"]
UNET = [
    "experiment=unet_family_unet",
    *FOLDS,
    "data.image_size=64",
    "model.channels=[4,4,8,8,8]",
    "optimizer.learning_rate=1.0e-2",
]
MASK_RCNN = [
    "experiment=mask_rcnn",
    *FOLDS,
    "model.backbone=tu-test_resnet",
    "model.weights=null",
    "model.min_size=64",
    "model.max_size=96",
    "model.channels=16",
    "model.hidden_size=16",
    "model.aspect_ratios=[1.0]",
    "model.boxes_per_image=16",
    "model.detections_per_image=10",
    "task.score_threshold=0.1",
]


@pytest.fixture(scope="session")
def _runs_once(tmp_path_factory: pytest.TempPathFactory, _empty_database: Path) -> Path:
    root = tmp_path_factory.mktemp("folds")
    (root / "mlruns").mkdir()
    shutil.copy(_empty_database, root / "mlruns" / "mlflow.db")
    folder = write_coco(root / "coco", num_images=NUM_IMAGES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paths, "PROJECT_ROOT", root)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            sweep = ["-m", *UNET, "data.fold=0,1,2", "run_name=unet_${data.fold}"]
            cli.run("train", [*sweep, f"data.data_dir={folder}"])
            options = [*MASK_RCNN, "data.fold=0", "run_name=rcnn_0", "tracker=none"]
            cli.run("train", [*options, f"data.data_dir={folder}"])
    finally:
        torch.set_num_threads(threads)
    return root


@pytest.fixture
def root(_runs_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root of one's own with the runs unet_0 to unet_2 (in MLflow) and rcnn_0 (not in it)."""
    shutil.copytree(_runs_once, tmp_path / "root")
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path / "root")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "root"


def ids_of(root: Path, run: str) -> list[str]:
    """The samples that a run was tested on."""
    with np.load(root / "results/test" / run / "samples.npz") as samples:
        return samples["ids"].tolist()


def metrics_of(root: Path, run: str) -> dict[str, float]:
    """The metrics of a run as its test wrote them."""
    content = json.loads((root / "results/test" / run / "metrics.json").read_text())["metrics"]
    return {name: np.nan if each["value"] is None else each["value"] for name, each in content.items()}


def table(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """The rows of summary.csv by study and metric; an empty cell is NaN."""
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row.pop("study"), row.pop("metric")): {key: float(value or "nan") for key, value in row.items()}
        for row in rows
    }


def test_every_image_is_tested_in_one_fold(root: Path) -> None:
    ids = [ids_of(root, f"unet_{fold}") for fold in range(3)]
    assert [len(names) for names in ids] == [4, 4, 4]
    assert sorted(id_ for names in ids for id_ in names) == sorted(
        path.stem for path in (root / "coco/images").iterdir()
    )
    assert ids_of(root, "rcnn_0") == ids[0]


def test_summary_of_folds_equals_numpy_and_stands_above_them_in_mlflow(root: Path) -> None:
    result = cli.run("summarize", ["unet_*", "run_name=all_folds", "num_replicates=50"])
    assert result.folder == root / "results/summary/all_folds"
    assert {path.name for path in result.folder.iterdir()} == {
        "summary.txt",
        "summary.csv",
        "summary.png",
        "metrics.json",
        "report.html",
    }
    rows = table(result.folder)
    (study,) = {study for study, _ in rows}
    folds = [metrics_of(root, f"unet_{fold}") for fold in range(3)]
    assert {metric for _, metric in rows} == set(folds[0])
    for metric in folds[0]:
        row, values = rows[study, metric], np.array([fold[metric] for fold in folds])
        assert [row[f"fold_{fold}"] for fold in range(3)] == pytest.approx(values.tolist())
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["std"] == pytest.approx(np.std(values, ddof=1))
        assert row["num_runs"] == 3
    # Equal folds: the mean over all images is the mean of the folds' means.
    row = rows[study, "dice_lesion_image"]
    assert row["pooled"] == pytest.approx(row["mean"])
    assert row["low"] <= row["pooled"] <= row["high"]
    assert "missing" not in (result.folder / "summary.txt").read_text()
    check_mlflow(root, study, row["mean"])


def check_mlflow(root: Path, study: str, mean: float) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlruns/mlflow.db'}")
    experiment = client.get_experiment_by_name("polymask").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert runs.keys() == {"all_folds", "unet_0", "unet_1", "unet_2"}
    parent = runs["all_folds"]
    assert parent.info.status == "FINISHED"
    logged = {name: value for name, value in parent.data.metrics.items() if "dice_lesion_image_mean" in name}
    assert list(logged.values()) == [pytest.approx(mean)]
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.info.run_name for run in children} == {"unet_0", "unet_1", "unet_2"}
    for run in children:
        value = metrics_of(root, run.info.run_name)["dice_lesion_image"]
        assert run.data.metrics["test/dice_lesion_image"] == pytest.approx(value)
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"summary.txt", "summary.csv", "summary.png", "metrics.json"} <= artifacts


def test_mask_rcnn_stands_beside_them_with_the_metrics_of_the_union(root: Path) -> None:
    result = cli.run(
        "summarize", ["unet_0", "rcnn_*", "run_name=beside", "num_replicates=50", "tracker=none"]
    )
    rows = table(result.folder)
    names = list(dict.fromkeys(study for study, _ in rows))
    assert len(names) == 2
    assert "unet" in names[0]
    assert "mask_rcnn tu-test_resnet" in names[1]
    for study, run in zip(names, ("unet_0", "rcnn_0"), strict=True):
        for metric in SHARED:
            assert rows[study, metric]["mean"] == pytest.approx(metrics_of(root, run)[metric])
    text = (result.folder / "summary.txt").read_text()
    side_by_side = text.partition("All studies on the metrics that they share")[2]
    assert side_by_side
    assert "not tested on the same samples" not in side_by_side
    assert all(metric in side_by_side for metric in SHARED)
    assert "mask_ap50" not in side_by_side
    assert set(json.loads((result.folder / "metrics.json").read_text())["shared_metrics"]) >= set(SHARED)
    assert text.count("folds 1, 2 are missing") == 2


def test_a_summary_of_other_folds_says_that_the_samples_differ(root: Path) -> None:
    cli.run("summarize", ["unet_*", "rcnn_0", "num_replicates=50", "tracker=none"])
    text = (root / "results/summary/summary/summary.txt").read_text()
    assert "not tested on the same samples (12 of unet" in " ".join(text.split())
    assert "4 in common" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unett_*"], "is called 'unett_*'"),
        (["unet_0", "unett_1"], "Did you mean 'unet_1'?"),
        ([], "runs= is needed"),
        (["unet_0", "test_dir=nowhere"], "has no samples.npz; run polymask test run_name=unet_0 first"),
        (["unet_0", "num_replicate=3"], "Did you mean 'num_replicates'?"),
        (["unet_0", "num_replicates=0"], "num_replicates=0"),
    ],
)
def test_mistakes_of_summarize_are_one_line(
    words: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["summarize", *words, "tracker=none"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (root / "results/summary").exists()


def test_classes_of_a_union_are_learned_with_multiclass(root: Path) -> None:
    options: list[Any] = [*UNET, "data.fold=0", "data.segmentation=multiclass", "tracker=none"]
    options += ["data.classes=[Fiber,Film,Fragment]", f"data.data_dir={root / 'coco'}", "run_name=classes"]
    result = cli.run("train", options)
    assert {"dice_macro_pooled", "dice_Film_pooled", "dice_lesion_image"} <= result.test_metrics.keys()
    # An image has objects of several classes, so no class of the image takes part.
    assert "accuracy" not in result.test_metrics
