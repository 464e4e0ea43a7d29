"""Volumes from the command line: a late fusion with linking that is learned, tested in two ways, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import fails
from volume_files import write_ctc
from volume_runs import TINY

import polymask
from polymask import cli
from polymask.errors import UserError
from polymask.metrics.volume_threshold import best_volume_threshold
from polymask.training.checkpoint import decisions_of, load_checkpoint
from polymask.utils import paths

CPU = ["data.num_workers=0", "trainer.device=cpu", "trainer.precision=fp32", "tracker=none"]
LEARNED = ["task.linking.name=embedding", "model.fusion.name=level_mlp"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the runs `learned` and `plain`, one epoch each."""
    root = tmp_path_factory.mktemp("runs")
    options = [f"data.data_dir={write_ctc(root / 'data', frames=2, shape=(4, 40, 40))}", *TINY, *CPU]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        cli.run("train", [*options, *LEARNED, "epochs=1", "run_name=learned"])
        cli.run("train", [*options, "model.fusion.name=centre", "epochs=1", "run_name=plain"])
        yield root
    torch.set_num_threads(threads)


def test_a_run_that_learns_to_link_has_the_head_and_pairs_of_slices(root: Path) -> None:
    content = load_checkpoint(root / "models" / "checkpoints" / "learned.pt")
    config = content["config"]
    assert (config["model"]["embedding"], config["data"]["reference"]) == (True, True)
    assert any(name.startswith("model.embedding.") for name in content["model"])
    plain = load_checkpoint(root / "models" / "checkpoints" / "plain.pt")
    assert (plain["config"]["model"]["embedding"], plain["config"]["data"]["reference"]) == (False, False)
    assert not any(name.startswith("model.embedding.") for name in plain["model"])
    history = content["training"]["history"]
    assert {"train/loss_embedding", "val/seg", "val/det", "val/loss_mask"} <= history[0].keys()
    assert content["training"]["history"][0]["train/loss_embedding"] > 0


def test_the_same_network_is_tested_with_either_linking(root: Path) -> None:
    learned = json.loads((root / "results" / "test" / "learned" / "metrics.json").read_text())
    again = cli.run("test", ["run_name=learned", "local_save_dir=again"])
    for name, value in again.metrics.items():
        if name in learned["metrics"]:
            expected = learned["metrics"][name]["value"]
            assert value == pytest.approx(np.nan if expected is None else expected, nan_ok=True), name
    loose = ["+task.linking.name=overlap", "+task.linking.min_slices=1", "+data.voxel_size=[1,1,1]"]
    other = cli.run("test", ["run_name=learned", "local_save_dir=other", *loose])
    assert other.metrics.keys() == again.metrics.keys()
    # Sections are the same, whatever becomes of them.
    assert other.metrics["slice_mask_ap50"] == again.metrics["slice_mask_ap50"]
    assert other.metrics["count_bias"] > again.metrics["count_bias"]
    objects = pd.read_csv(other.folder / "objects.csv")
    assert (objects["volume_um3"] == objects["voxels"]).all()


def test_a_network_without_the_head_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = ["test", "run_name=plain", "+task.linking.name=embedding", "local_save_dir=none"]
    assert "task.linking.name=embedding needs a network" in fails(capsys, *test)
    infer = ["infer", "run_name=plain", f"data.data_dir={root / 'data' / '01'}", "local_save_dir=none"]
    printed = fails(capsys, *infer, "task.linking.name=embedding", "data.num_workers=0")
    assert "task.linking.name=embedding needs a network" in printed
    assert not (root / "none").exists()


def test_a_run_that_starts_from_a_2d_network_evaluates_as_it_does(root: Path) -> None:
    late = ["model.fusion.name=level_conv", "init_from=plain", "run_name=extended"]
    still = ["optimizer.learning_rate=1.0e-30", "optimizer.weight_decay=0", "epochs=1"]
    still += ["test_after_training=false"]
    cli.run("train", [f"data.data_dir={root / 'data'}", *TINY, *CPU, *late, *still])
    runs = [root / "models" / "checkpoints" / f"{name}.pt" for name in ("plain", "extended")]
    (before,), (after,) = (load_checkpoint(run)["training"]["history"] for run in runs)
    measured = {name: value for name, value in before.items() if name.startswith("val/")}
    assert {name: after[name] for name in measured} == pytest.approx(measured, rel=1e-6, nan_ok=True)


def test_two_runs_are_compared_by_frames(root: Path) -> None:
    cli.run("compare", ["run_a=learned", "run_b=plain", "num_pictures=1", "tracker=none"])
    folder = root / "results" / "comparison" / "learned_vs_plain"
    table = pd.read_csv(folder / "comparison.csv", index_col="metric")
    assert {"seg", "det", "op_csb", "volume_ap50", "slice_mask_ap50"} <= set(table.index)
    assert len(pd.read_csv(folder / "per_sample.csv")) == 2


def test_a_threshold_is_chosen_on_val_by_a_later_test_and_used_by_inference(root: Path) -> None:
    path = root / "models" / "checkpoints" / "learned.pt"
    before = decisions_of(load_checkpoint(path))
    assert not before  # nobody asked for it
    with pytest.raises(UserError, match=r"best_count needs .* polymask test with \+task.score_threshold="):
        polymask.load("learned", device="cpu", score_threshold="best_count")
    cli.run("test", ["run_name=learned", "+task.score_threshold=best_count", "local_save_dir=counted"])
    validation = decisions_of(load_checkpoint(path))
    by_count = best_volume_threshold(validation, "best_count")
    by_count = 0.5 if np.isnan(by_count) else by_count  # of a network that finds nothing right
    folder = root / "counted" / "learned"
    assert json.loads((folder / "metrics.json").read_text())["score_threshold"] == by_count
    assert (folder / "calibration_objects.png").exists()
    table = pd.read_csv(folder / "score_thresholds.csv").set_index("rule")
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    # Linked once more with a threshold, sections give what an evaluation with it gave.
    assert table.loc["used", "count_error"] == pytest.approx(metrics["count_error"]["value"], rel=1e-5)
    loaded = polymask.load("learned", device="cpu", score_threshold="best_count")
    assert loaded.application.score_threshold == by_count


def test_an_inference_takes_its_own_linking(root: Path) -> None:
    folder = ["run_name=learned", f"data.data_dir={root / 'data' / '01'}", "data.num_workers=0"]
    options = ["task.linking.min_slices=1", "task.linking.convex=false", "task.score_threshold=0.05"]
    result = cli.run("infer", [*folder, *options, "overlay=false"])
    assert result.predicted == 2
    settings = json.loads((result.folder / "inference.json").read_text())
    assert settings["task.linking"]["convex"] is False
    assert sorted(path.name for path in (result.folder / "01_RES").iterdir())[-1] == "res_track.txt"
