"""What a run says of itself: in its checkpoints, and as tags in the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig

from polymask.data.module import DataModule
from polymask.data.splits.split import Split, split_from_csv
from polymask.errors import UserError
from polymask.families.base import Family
from polymask.reporting.course import Course
from polymask.reporting.page.facts import UNKNOWN, RunFacts, Subset
from polymask.run_config import chosen_groups, flatten, plain
from polymask.training.checkpoint import RunRecord, run_record
from polymask.training.trainer import Trainer
from polymask.utils.provenance import git_commit, library_versions, licence_in, processor_name


def new_record(cfg: DictConfig, data: DataModule, previous: Mapping[str, Any] | None, name: str) -> RunRecord:
    """Return what the checkpoints will say of the run.

    Args:
        cfg: The whole configuration; it takes up what was found in the training images.
        data: The data set.
        previous: The last checkpoint of a run that is resumed.
        name: Name of the run.
    """
    corrections = data.corrections.sha256 if data.corrections is not None else ""
    if previous is not None:
        _check_corrections(previous, corrections, name)
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
        corrections_sha256=corrections,
    )


def _check_corrections(previous: Mapping[str, Any], sha256: str, name: str) -> None:
    """Refuse to go on with a run on another truth than it began with.

    Raises:
        UserError: The file of its corrections has changed since.
    """
    before = previous["corrections_sha256"]
    if sha256 != before:
        raise UserError(
            f"the file data.corrections of {name} has changed since the run began (sha256 {before[:12]}, now "
            f"{sha256[:12]}); put it back, or start a new run with init_from= to keep weights."
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
        **({"corrections_sha256": record.corrections_sha256} if record.corrections_sha256 else {}),
        **{f"version_{name}": value for name, value in record.versions.items()},
    }


def run_facts(
    record: RunRecord,
    family: Family,
    data: DataModule,
    num_parameters: int | None,
    trainer: Trainer,
    course: Course,
) -> RunFacts:
    """Return what the page and the model card of a test say of the run beside its results."""
    trained = set(split_from_csv(record.split).subsets["train"]) if record.split else set()
    return RunFacts(
        name=record.run_name,
        config=flatten(record.config),
        groups=record.groups,
        class_names=family.class_names,
        predicts=sorted(family.predicts),
        split_sha256=record.split_sha256,
        data_name=data.data_dir.name,
        data_fingerprint=data.fingerprint(),
        data_description=data.description(),
        data_licence=licence_in(data.data_dir),
        subsets=_subsets(data.split, data),
        num_seen=len(trained.intersection(data.split.subsets["test"])),
        versions=record.versions,
        commit=git_commit(),
        hardware=_hardware(trainer),
        num_parameters=num_parameters,
        course=course,
        parent_run=record.parent_run,
    )


def _subsets(split: Split, data: DataModule) -> list[Subset]:
    records = {record.id: record for record in data.records}
    found = []
    for name, ids in split.subsets.items():
        own = [records[id_] for id_ in ids if id_ in records]
        found.append(
            Subset(
                name=name,
                num_samples=len(own),
                num_groups=len({record.group for record in own}),
                class_counts=[
                    sum(label in record.labels for record in own) for label in range(len(data.classes))
                ],
            )
        )
    return found


def _hardware(trainer: Trainer) -> dict[str, str]:
    device = trainer.settings.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "Tested on": f"{device.type}: {name or UNKNOWN}",
        "Precision": str(trainer.settings.precision).removeprefix("torch."),
    }
