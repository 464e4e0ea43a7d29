"""The score threshold that a rule chooses on val is the one that test and inference count by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from instance_files import write_coco

import polymask
from polymask import cli
from polymask.errors import UserError
from polymask.families.instances.family import Family
from polymask.metrics.object_threshold import metrics_at
from polymask.training.checkpoint import decisions_of, load_checkpoint

TINY = [
    "experiment=mask_rcnn",
    "scheduler=none",
    "data.batch_size=2",
    "data.num_workers=0",
    "data.cache_dir=null",
    "data.fractions=[0.4,0.3,0.3]",
    "model.backbone=test_efficientnet",
    "model.weights=null",
    "model.min_size=64",
    "model.max_size=64",
    "model.channels=32",
    "model.hidden_size=16",
    "model.anchor_sizes=[8,12,16,24,32]",
    "model.aspect_ratios=[1.0]",
    "model.boxes_per_image=32",
    "model.detections_per_image=10",
    "model.score_threshold=0.01",
    "optimizer.learning_rate=3.0e-3",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "epochs=2",
    "run_name=ruled",
    "task.score_threshold=best_f1",
]


def test_a_rule_is_decided_on_val_and_used_by_test_and_inference(project: Path, tmp_path: Path) -> None:
    write_coco(tmp_path / "objects", num_images=12, sizes=((64, 64),))
    cli.run("train", [*TINY, f"data.data_dir={tmp_path / 'objects'}"])
    path = project / "models/checkpoints/ruled.pt"
    validation = decisions_of(load_checkpoint(path))
    scores = np.unique(validation["detection_scores"][validation["detection_kinds"] >= 0]).astype(float)
    best = max(metrics_at(validation, score)["f1"][0] for score in scores)
    used = json.loads((project / "results/test/ruled/metrics.json").read_text())["score_threshold"]
    assert used != 0.5
    assert metrics_at(validation, used)["f1"] == pytest.approx(best)
    check_table(project / "results/test/ruled", used)
    assert polymask.load("ruled", device="cpu").application.score_threshold == used
    assert polymask.load("ruled", device="cpu", score_threshold=0.25).application.score_threshold == 0.25
    by_count = polymask.load("ruled", device="cpu", score_threshold="best_count").application
    least = min(metrics_at(validation, score)["count_error"][0] for score in scores)
    assert metrics_at(validation, by_count.score_threshold)["count_error"] == pytest.approx(least)
    check_without_decisions(project, path, used)


def check_table(folder: Path, used: float) -> None:
    """The table says of the threshold that was used what the metrics say."""
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    line = pd.read_csv(folder / "score_thresholds.csv").set_index("rule").loc["used"]
    assert line["threshold"] == pytest.approx(used, rel=1e-5)
    for column, name in (("f1", "f1_at_score"), ("count_error", "count_error")):
        assert line[column] == pytest.approx(metrics[name]["value"], rel=1e-5)
        assert line[f"{column}_low"] == pytest.approx(metrics[name]["low"], rel=1e-5)


def check_without_decisions(project: Path, path: Path, used: float) -> None:
    """A checkpoint that knows nothing of val: inference asks for a test, and a test decides anew."""
    content = torch.load(path, weights_only=True)
    del content["decisions"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"best_f1 needs .* test with \+task.score_threshold=best_f1"):
        polymask.load("ruled", device="cpu")
    cli.run("test", ["run_name=ruled"])
    again = json.loads((project / "results/test/ruled/metrics.json").read_text())["score_threshold"]
    assert again == pytest.approx(used, rel=1e-5)
    assert polymask.load("ruled", device="cpu").application.score_threshold == again


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match=r"score_threshold='best' is unknown.*best_f1, best_count, a number"):
        Family(class_names=["a"], score_threshold="best")
    with pytest.raises(UserError, match=r"at most 1, or a rule: best_f1, best_count"):
        Family(class_names=["a"], score_threshold=1.5)
