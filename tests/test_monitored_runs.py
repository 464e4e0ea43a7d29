"""`task.monitors` from the command line: what a run leaves, and `run@metric` wherever a run is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import fails
from hydra.utils import instantiate
from lesion_files import write_lesions
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf
from strangers import run

import polymask
from polymask import cli
from polymask.errors import UserError
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths
from polymask.utils.paths import CONFIG_DIR

OPTIONS = [
    "run_name=both",
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=32",
    "data.batch_size=8",
    "data.num_workers=0",
    "data.fractions=[0.4,0.3,0.3]",
    "transforms=none",
    "model.encoder_name=tu-test_resnet",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.encoder_weights=null",
    "optimizer.learning_rate=0.02",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "epochs=4",
    "test_after_training=false",
]
MONITORS = ["val/dice_lesion_image", "val/auroc_macro"]


@pytest.fixture(scope="module")
def _once(tmp_path_factory: pytest.TempPathFactory, _empty_database: Path) -> Path:
    root = tmp_path_factory.mktemp("monitored")
    (root / "mlruns").mkdir()
    shutil.copy(_empty_database, root / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run(
            "train",
            f"data.data_dir={write_lesions(root / 'lesions')}",
            *OPTIONS,
            f"task.monitors=[val/loss,{','.join(MONITORS)},{MONITORS[0]}]",
        )
    return root


@pytest.fixture
def root(_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PROJECT_ROOT", _once)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return _once


def course(root: Path) -> pd.DataFrame:
    (path,) = root.glob("outputs/*/*/metrics.csv")
    return pd.read_csv(path)


def best_epoch(root: Path, key: str) -> int:
    table = course(root)
    row = table[key].idxmin() if "loss" in key else table[key].idxmax()
    return int(table["epoch"][row])


def tracked(root: Path) -> list[Run]:
    """Return the runs of the tracker by name."""
    client = MlflowClient(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("polymask").experiment_id
    return sorted(client.search_runs([experiment]), key=lambda found: str(found.info.run_name))


def test_a_run_leaves_the_best_epoch_by_each_metric(root: Path) -> None:
    folder = root / "models" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "both.last.pt", "both.pt", "both.yaml", "both@auroc_macro.pt", "both@dice_lesion_image.pt",
    ]  # fmt: skip
    for key in MONITORS:
        content = load_checkpoint(folder / f"both@{key.removeprefix('val/')}.pt")
        assert content["training"]["epoch"] == best_epoch(root, key)
        assert content["decisions"]
    assert load_checkpoint(folder / "both.pt")["training"]["epoch"] == best_epoch(root, "val/loss")
    assert set(course(root)["epochs_without_improvement"]) <= {0, 1, 2, 3}
    (log,) = root.glob("outputs/*/*/*.log")
    text = log.read_text(encoding="utf-8")
    assert "best auroc_macro" in text
    assert "run_name=both@auroc_macro" in text


def test_the_tracker_knows_the_best_of_each_metric(root: Path) -> None:
    found = tracked(root)[0]
    table = course(root)
    for key in MONITORS:
        assert found.data.metrics[f"best/{key}"] == pytest.approx(table[key].max())
        assert found.data.tags[f"best_epoch/{key}"] == str(best_epoch(root, key))
    client = MlflowClient(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")
    kept = {Path(file.path).name for file in client.list_artifacts(found.info.run_id, "run")}
    assert {"both.pt", "both@auroc_macro.pt", "both@dice_lesion_image.pt"} <= kept


def test_run_and_metric_name_a_checkpoint_for_every_command(root: Path) -> None:
    folder = root / "models" / "checkpoints"
    # Without a name the newest run is taken, never a file beside it.
    first = run("test", "tracker=none")
    assert first.run_name == "both"
    before = (first.folder / "metrics.json").read_bytes()
    result = run("test", "run_name=both@val/auroc_macro")
    assert result.run_name == "both@auroc_macro"
    assert result.folder == root / "results" / "test" / "both@auroc_macro"
    assert (first.folder / "metrics.json").read_bytes() == before
    epoch = best_epoch(root, "val/auroc_macro")
    assert f"tested weights of epoch {epoch}" in (result.folder / "report.html").read_text(encoding="utf-8")
    # In the tracker it is a run beside that of the training, with which the next test goes on.
    runs = tracked(root)
    assert [found.info.run_name for found in runs] == ["both", "both@auroc_macro"]
    assert runs[1].data.tags["parent_run"] == "both"
    assert runs[1].data.metrics["test/auroc_macro"] == pytest.approx(result.metrics["auroc_macro"])
    content = load_checkpoint(folder / "both@auroc_macro.pt")
    assert content["tracker_run_id"] == runs[1].info.run_id

    predictor = polymask.load("both@auroc_macro", device="cpu")
    assert predictor.run_name == "both@auroc_macro"  # that of the folder of an inference, too
    weights = predictor.task.state_dict()
    assert all(torch.equal(value, content["model"][key]) for key, value in weights.items())
    few = ["num_pictures=1", "num_replicates=20", "num_permutations=20", "tracker=none"]
    compared = run("compare", "both", "both@val/auroc_macro", *few)
    assert compared.folder.name == "both_vs_both@auroc_macro"
    summary = run("summarize", "bo*@auroc*", "num_replicates=20", "tracker=none")
    assert np.isfinite(list(summary.metrics.values())).any()
    with pytest.raises(UserError, match=r"no run .* is called 'bo\*_x'"):
        run("summarize", "bo*_x")
    exported = run("export-model", "run_name=both@auroc_macro", "path=files/auroc.pth")
    assert exported.path.read_bytes() == (folder / "both@auroc_macro.pt").read_bytes()


def test_a_new_run_starts_from_the_best_by_a_metric(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [option for option in OPTIONS if not option.startswith(("run_name", "epochs"))]
    options += [f"data.data_dir={root / 'lesions'}", "tracker=none"]
    cli.run("train", [*options, "run_name=next", "init_from=both@dice_lesion_image", "epochs=1"])
    source = root / "models" / "checkpoints" / "both@dice_lesion_image.pt"
    assert f"weights from {source}" in capsys.readouterr().out
    for path in (root / "models" / "checkpoints").glob("next*"):
        path.unlink()


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml")))
def test_every_family_takes_further_metrics(option: str) -> None:
    node = OmegaConf.create({"task": OmegaConf.load(CONFIG_DIR / "task" / f"{option}.yaml")}).task
    assert node.monitors == []
    node.monitors = [node.monitor, "val/loss_x", "val/x", "val/count_error:min"]
    family = instantiate(node, class_names=["a", "b"], _convert_="all")
    assert family.monitors == {"val/loss_x": "min", "val/x": "max", "val/count_error": "min"}


def test_mistakes_are_told_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*OPTIONS[1:], f"data.data_dir={root / 'lesions'}", "tracker=none", "run_name=other"]
    assert "Did you mean 'val/auroc_macro'?" in fails(
        capsys, "train", *options, "task.monitors=[val/auroc_macr]"
    )
    assert "must be a list of metrics" in fails(capsys, "train", *options, "task.monitors=val/loss")
    assert "Of this run there are: both, both@auroc_macro" in fails(capsys, "test", "run_name=both@loss")
    told = fails(capsys, "train", "resume=true", "run_name=both", "task.monitors=[val/accuracy]")
    assert "resume keeps the run's task.monitors=" in told
    assert not list((root / "models" / "checkpoints").glob("other*"))
