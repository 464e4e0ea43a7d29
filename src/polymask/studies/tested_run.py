"""A run as its test left it: what compare and summarize read back. No network is built."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polymask.data.module import DataModule
from polymask.errors import UserError
from polymask.factories import Rebuilt, rebuild
from polymask.reporting.rows import read_samples
from polymask.run_files import TEST_RESULTS
from polymask.structures.samples import Rows
from polymask.training.checkpoint import load_checkpoint
from polymask.utils.paths import resolve


@dataclass(frozen=True, kw_only=True)
class RunOnDisk:
    """A tested run.

    Attributes:
        name: Name of the run.
        run: What its checkpoint was written from.
        folder: Folder of its test report, called like the run.
        rows: One row per test sample.
        groups: (N,) group of each sample.
    """

    name: str
    run: Rebuilt
    folder: Path
    rows: Rows
    groups: Sequence[str]


def read_tested_run(checkpoint: Path, *, test_dir: str | None, data_dir: str | None = None) -> RunOnDisk:
    """Read a run back.

    Args:
        checkpoint: Its best checkpoint.
        test_dir: Folder of the test reports, None for where the run put its own.
        data_dir: Folder of its data, None for where they lay in training.

    Raises:
        UserError: The checkpoint cannot be read, or the run was not tested, or by a version that did not keep
            the samples.
    """
    content = load_checkpoint(checkpoint)
    run = rebuild(content)
    if data_dir is not None:
        run.cfg.data.data_dir = data_dir
    name = content["run_name"]
    folder = resolve(test_dir or run.cfg.local_save_dir or TEST_RESULTS) / name
    rows, groups = read_samples(folder)
    return RunOnDisk(name=name, run=run, folder=folder, rows=rows, groups=groups)


def with_test_samples(data: DataModule, ids: list[str], name: str) -> DataModule:
    """Return the data set with the samples `ids` as its test subset.

    A test with another split file than the training's looked at other samples than the run's own split says.

    Raises:
        UserError: The data set lacks some of them.
    """
    missing = set(ids).difference(record.id for record in data.records)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(ids)} test samples of {name} are not in {data.data_dir}, e.g. "
            f"{min(missing)!r}; give the folder of the data that it was tested on as data_dir=."
        )
    data = copy.copy(data)
    data.split = replace(data.split, subsets={"train": [], "val": [], "test": ids})
    return data
