"""What a run says of itself: in its checkpoints, and as tags in the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from polymask.data.module import DataModule
from polymask.run_config import chosen_groups, plain
from polymask.training.checkpoint import RunRecord, run_record
from polymask.training.trainer import Trainer
from polymask.utils.provenance import git_commit, library_versions


def new_record(cfg: DictConfig, data: DataModule, previous: Mapping[str, Any] | None, name: str) -> RunRecord:
    """Return what the checkpoints will say of the run.

    Args:
        cfg: The whole configuration; it takes up what was found in the training images.
        data: The data set.
        previous: The last checkpoint of a run that is resumed.
        name: Name of the run.
    """
    if previous is not None:
        return replace(run_record(previous), config=plain(cfg))
    if not data.samples.windows_each:
        cfg.data.intensity_range = list(data.intensity_range)  # of the training images: part of the model
    return RunRecord(
        run_name=name,
        config=plain(cfg),
        groups=chosen_groups(),
        class_names=data.classes,
        split=data.split.to_csv(),
        split_sha256=data.split.sha256,
        versions=library_versions(),
    )


def run_tags(record: RunRecord, data: DataModule, trainer: Trainer) -> dict[str, str]:
    """Return the tags of a run in the tracker: code, data, hardware, versions."""
    return {
        "git_commit": git_commit(),
        "mlflow.source.git.commit": git_commit().removesuffix("+changes"),
        "data_fingerprint": data.fingerprint(),
        "split_sha256": record.split_sha256,
        "device": str(trainer.settings.device),
        "precision": str(trainer.settings.precision).removeprefix("torch."),
        **({"parent_run": record.parent_run} if record.parent_run else {}),
        **{f"version_{name}": value for name, value in record.versions.items()},
    }
