"""Tested runs as sides of a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.module import DataModule
from polymask.data.splits.split import split_from_csv
from polymask.factories import Rebuilt, rebuild
from polymask.reporting.rows import read_samples
from polymask.studies.comparison.sides import Side, make_side
from polymask.studies.tested_run import RunOnDisk
from polymask.training.checkpoint import load_checkpoint


def parts(trained: Path) -> tuple[DataModule, Rebuilt]:
    """Data and configuration of the run `tiny`."""
    run = rebuild(load_checkpoint(trained / "models" / "checkpoints" / "tiny.pt"))
    run.cfg.data.cache_dir = None
    return run.build_data(split=split_from_csv(run.content["split"])), run


def side(trained: Path, folder: Path) -> Side:
    data, run = parts(trained)
    return make_side(read_back(folder, run), data)


def read_back(folder: Path, run: Rebuilt) -> RunOnDisk:
    rows, groups = read_samples(folder)
    return RunOnDisk(name=folder.name, run=run, folder=folder, rows=rows, groups=groups)


def some(given: Side, rows: slice, **changes: Any) -> Side:
    """The same run, tested on some of its samples."""
    kept = {name: values[rows] for name, values in given.rows.items()}
    return replace(given, rows=kept, groups=list(given.groups)[rows], **changes)


def with_rows(given: Side, **rows: np.ndarray) -> Side:
    return replace(given, rows=given.rows | rows)


def reported(folder: Path) -> dict[str, float]:
    content = json.loads((folder / "metrics.json").read_text())
    return {name: entry["value"] for name, entry in content["metrics"].items()}
