from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tested_sides import parts, side

from polymask.factories import build_task
from polymask.reporting.course import Course
from polymask.studies.comparison.sides import Side
from polymask.training.trainer import Trainer


@pytest.fixture(scope="session")
def random_folder(_trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test report of a run called `random`, which has learned nothing."""
    data, run = parts(_trained_once)
    torch.manual_seed(3)
    task = build_task(run.cfg, run.family, pretrained=False)
    trainer = Trainer(epochs=1, device="cpu", precision="fp32")
    trainer.prepare(task)
    folder = tmp_path_factory.mktemp("results") / "random"
    report = run.family.report(folder, data)
    rows = trainer.evaluate(task, data.evaluation_loader("test"), title="test", consume=report.add)
    report.finish(report.complete(rows), Course(history=[], best_epoch=0))
    return folder


@pytest.fixture(scope="session")
def tiny(_trained_once: Path) -> Side:
    return side(_trained_once, _trained_once / "results" / "test" / "tiny")


@pytest.fixture(scope="session")
def random(_trained_once: Path, random_folder: Path) -> Side:
    return side(_trained_once, random_folder)
