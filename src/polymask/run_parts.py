"""What a run is made of: its family and task, its split, its course."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from polymask.data.module import DataModule
from polymask.data.splits.split import Split, split_from_csv
from polymask.errors import UserError
from polymask.factories import Rebuilt, build_family, build_task, rebuild
from polymask.families.base import Family, Task
from polymask.fitting import check_fit
from polymask.training.checkpoint import (
    CheckpointFolder,
    RunRecord,
    add_decisions,
    inference_weights,
    load_checkpoint,
    load_weights,
    new_parts,
)
from polymask.training.run_names import run_of
from polymask.training.state import TrainingState
from polymask.training.trainer import Trainer
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)


def split_of(content: Mapping[str, Any] | None) -> Split | None:
    """Return the split of a checkpoint, None without one."""
    return split_from_csv(content["split"]) if content is not None else None


def build_family_and_task(
    cfg: DictConfig, data: DataModule, previous: Mapping[str, Any] | None, checkpoints: CheckpointFolder
) -> tuple[Family, Task]:
    """Build what is trained: anew, from weights of another run, or from the run's own last checkpoint.

    Raises:
        UserError: Data set, network and loss do not fit the task, or the data have other classes than before.
    """
    counts = data.class_counts("train")
    if previous is not None:
        if data.classes != previous["class_names"]:
            raise UserError(
                f"the run was trained on the classes {', '.join(previous['class_names']) or 'none'}, but "
                f"{data.data_dir} has {', '.join(data.classes) or 'none'}: give the data that it was trained "
                "on, or start a new run with init_from= to keep weights."
            )
        run = rebuild(previous, cfg)
        family, build = run.family, partial(run.build_task, class_counts=counts)
    else:
        family = build_family(cfg, data.classes)
        pretrained = cfg.init_from is None
        build = partial(build_task, cfg, family, class_counts=counts, pretrained=pretrained)
    check_fit(cfg, family)
    task = build()
    data.check_truth(family.needs)
    if previous is None and cfg.init_from is not None:
        _start_from(task, str(cfg.init_from), checkpoints, strict=cfg.init_strict)
    return family, task


def _start_from(task: Task, source: str, checkpoints: CheckpointFolder, *, strict: bool) -> None:
    """Load the weights of another run or file into a fresh task."""
    path = resolve(source) if source.endswith((".pt", ".pth")) else checkpoints.find(source)
    weights = inference_weights(load_checkpoint(path))
    absent = new_parts(task, weights)
    if absent:
        log.info("init_from: new weights for %s, of which %s has none", ", ".join(absent), path)
    for note in load_weights(task, weights, source=str(path), strict=strict, absent=absent):
        log.warning("init_from: %s", note)
    log.info("weights from %s", path)


def keeps_split(content: Mapping[str, Any], cfg: DictConfig) -> bool:
    """Return whether a test uses the run's own split: always, unless a split file was given to the test."""
    return bool(cfg.data.get("split_file") == content["config"]["data"].get("split_file"))


def learned_from(run: Rebuilt, groups: Mapping[str, str]) -> list[str]:
    """Return those samples that a run knows: it was trained, or its best epoch chosen, on their groups.

    Args:
        run: The run.
        groups: Group of each sample by its id.
    """
    if run.cfg.data.get("overfit_samples") is not None:  # a split cannot tell: it has each sample once
        return list(groups)
    split = split_from_csv(run.content["split"])
    learned = {*split.subsets["train"], *split.subsets["val"]}
    own_groups = {split.groups[id_] for id_ in learned}
    return [id_ for id_, group in groups.items() if id_ in learned or group in own_groups]


def warn_of_overlap(split: Split | None, data: DataModule) -> None:
    """Say so when a test on another split looks at samples that the run was trained on."""
    seen = set(split.subsets["train"]) & set(data.split.subsets["test"]) if split is not None else set()
    if seen:
        log.warning("%d test samples were in the training subset of this run.", len(seen))


def decide_now(
    family: Family, task: Task, trainer: Trainer, data: DataModule, path: Path, *, own_split: bool
) -> None:
    """Decide on the validation samples of a run whose checkpoint does not know what they said, and keep it.

    Args:
        family: The run's family.
        task: Its task, with the weights to be tested.
        trainer: Evaluates.
        data: The run's data set.
        path: The run's best checkpoint.
        own_split: Whether the data set is split as in the run's training.

    Raises:
        UserError: It is not, so that the training saw some of what would be the validation samples.
    """
    if not own_split:
        raise UserError(
            f"{family.undecided} is decided on the run's own validation samples, of which {path.name} knows "
            f"nothing: test it once without data.split_file, with {family.undecided}."
        )
    log.info("%s is decided on %d validation samples", family.undecided, len(data.subset("val")))
    decisions = family.decisions(trainer.evaluate(task, data.evaluation_loader("val"), title="val"))
    family.decide(decisions, task)
    add_decisions(path, decisions)


def warn_of_other_truth(record: RunRecord, data: DataModule) -> None:
    """Say so when a test measures against another truth than the run learned from."""
    now = data.corrections.sha256 if data.corrections is not None else ""
    if now != record.corrections_sha256:
        log.warning(
            "this test takes other corrections (data.corrections) than the training: %s, not %s.",
            now[:12] or "none",
            record.corrections_sha256[:12] or "none",
        )


def state_of(checkpoints: CheckpointFolder, content: Mapping[str, Any]) -> TrainingState:
    """Return the course of a run: of its last checkpoint where there is one, which knows all epochs."""
    last = checkpoints.last(run_of(content["run_name"]))
    return TrainingState(**(load_checkpoint(last) if last.is_file() else content)["training"])
