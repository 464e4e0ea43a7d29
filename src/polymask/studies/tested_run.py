"""A run as its test left it: what compare and summarize read back. No network is built."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polymask.data.module import DataModule
from polymask.data.splits.split import Split, split_from_csv
from polymask.errors import UserError
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
        members, (rows, groups) = read_ensemble(folder), read_samples(folder)
        content = load_checkpoint(checkpoints.find(members[0]))
        content = _as_one(content, name, members, dict(zip(rows["ids"].tolist(), groups, strict=True)))
    else:
        content = load_checkpoint(checkpoints.find(name))
        name = content["run_name"]
        folder = _report_folder(name, test_dir or content["config"].get("local_save_dir"))
        rows, groups = read_samples(folder)
    run = rebuild(content)
    if data_dir is not None:
        run.cfg.data.data_dir = data_dir
    return RunOnDisk(name=name, run=run, folder=folder, rows=rows, groups=groups)


def _report_folder(name: str, test_dir: str | None) -> Path:
    return resolve(test_dir or TEST_RESULTS) / name


def _as_one(
    content: Mapping[str, Any], name: str, members: Sequence[str], groups: dict[str, str]
) -> dict[str, Any]:
    """Return the checkpoint of a member as that of the ensemble: no fold of a study, no run of a tracker.

    Args:
        content: The checkpoint.
        name: Name of the ensemble.
        members: Names of all members.
        groups: Group of each tested sample by its id; whoever predicted it never saw it.
    """
    config = content["config"]
    data = {**config["data"], "num_folds": None}
    own = split_from_csv(content["split"])
    tested = set(groups.values())
    others = [id_ for id_, group in own.groups.items() if id_ not in groups and group not in tested]
    split = Split(
        subsets={"train": others, "val": [], "test": list(groups)},
        groups=own.groups | groups,
        labels=dict.fromkeys(groups, "") | own.labels,
    )
    return {
        **content,
        "run_name": name,
        "tracker_run_id": "",
        "split": split.to_csv(),
        "config": {**config, "data": data, "ensemble": list(members)},
    }


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
