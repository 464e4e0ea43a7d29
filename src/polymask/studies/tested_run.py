"""A run as its test left it: what compare and summarize read back. No network is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymask.factories import Rebuilt, rebuild
from polymask.reporting.rows import read_samples
from polymask.run_ensemble import ENSEMBLE_NAME, read_ensemble
from polymask.run_files import CHECKPOINTS, TEST_RESULTS
from polymask.structures.samples import Rows
from polymask.training.checkpoint import CheckpointFolder, load_checkpoint
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


def is_ensemble(name: str, test_dir: str | None) -> bool:
    """Return whether a test of several runs together left its report under a name."""
    return (_report_folder(name, test_dir) / ENSEMBLE_NAME).is_file()


def read_tested_run(name: str, *, test_dir: str | None, data_dir: str | None = None) -> RunOnDisk:
    """Read a run back, or an ensemble, which is as its first member but for the rows and the folds.

    Args:
        name: Name of the run or the ensemble.
        test_dir: Folder of the test reports, None for where the run put its own.
        data_dir: Folder of its data, None for where they lay in training.

    Raises:
        UserError: There is no such run, its checkpoint cannot be read, or it was not tested, or by a version
            that did not keep the samples.
    """
    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    if is_ensemble(name, test_dir):
        folder = _report_folder(name, test_dir)
        members = read_ensemble(folder)
        content = _as_one(load_checkpoint(checkpoints.find(members[0])), name, members)
    else:
        content = load_checkpoint(checkpoints.find(name))
        folder = _report_folder(name, test_dir or content["config"].get("local_save_dir"))
    run = rebuild(content)
    if data_dir is not None:
        run.cfg.data.data_dir = data_dir
    rows, groups = read_samples(folder)
    return RunOnDisk(name=name, run=run, folder=folder, rows=rows, groups=groups)


def _report_folder(name: str, test_dir: str | None) -> Path:
    return resolve(test_dir or TEST_RESULTS) / name


def _as_one(content: Mapping[str, Any], name: str, members: Sequence[str]) -> dict[str, Any]:
    """Return the checkpoint of a member as that of the ensemble: no fold of a study, no run of a tracker."""
    config = content["config"]
    data = {**config["data"], "num_folds": None}
    return {
        **content,
        "run_name": name,
        "tracker_run_id": "",
        "config": {**config, "data": data, "ensemble": list(members)},
    }
