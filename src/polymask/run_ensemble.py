"""The test of several runs together: as an ensemble on one test subset, or each on its own fold."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from polymask.data.module import DataModule
from polymask.data.splits.split import Split
from polymask.errors import UserError
from polymask.factories import build_tracker, build_trainer, rebuild
from polymask.fitting import check_fit
from polymask.inference.ensemble import EnsembleApplication, EnsembleTask
from polymask.inference.members import Member, check_agreement, check_can_merge, ensemble_name, in_order
from polymask.reporting.course import Course
from polymask.run_config import TEST_MAY_CHANGE, flatten, plain, stored_config, write_config
from polymask.run_files import report_place, report_test
from polymask.run_parts import keeps_split, split_of
from polymask.structures.samples import Rows
from polymask.tracking.session import run_session
from polymask.training.checkpoint import load_checkpoint
from polymask.training.trainer import Trainer
from polymask.utils.outputs import output_dir
from polymask.utils.provenance import git_commit

log = logging.getLogger(__name__)

ENSEMBLE_NAME = "ensemble.json"
"""File that says which runs were tested together in a folder."""


class EnsembleTest(NamedTuple):
    """The name of the ensemble, its metrics by name, and the folder with everything else."""

    name: str
    metrics: dict[str, float]
    folder: Path


class Plan(NamedTuple):
    """What is tested.

    Attributes:
        data: The data set, with all tested samples as its test subset.
        evaluate: Returns the rows, and gives predictions to `consume`.
        notes: What a reader must know.
    """

    data: DataModule
    evaluate: Callable[..., Rows]
    notes: list[str]


def test_ensemble(cfg: DictConfig, paths: Sequence[Path]) -> EnsembleTest:
    """Test runs together.

    Args:
        cfg: Of the test; with `out_of_fold`, each sample is predicted by the run that tests it alone.
        paths: Checkpoints of the runs.

    Raises:
        UserError: The runs do not predict the same, or there is no test subset that none was trained on.
    """
    out_of_fold = cfg.out_of_fold
    if not isinstance(out_of_fold, bool):
        raise UserError(f"out_of_fold={out_of_fold} is not allowed; give true or false.")
    members = in_order([read_for_test(path, cfg) for path in paths])
    names = [member.run_name for member in members]
    name = ensemble_name(names, out_of_fold=out_of_fold)
    first = members[0].run
    for member in members:
        check_fit(member.run.cfg, member.run.family)
    trainer = build_trainer(first.cfg)
    plan = (plan_folds if out_of_fold else plan_ensemble)(members, trainer)
    for note in plan.notes:
        log.warning("%s", note)
    log.info("testing %s: %s; %s", name, ", ".join(names), plan.data.description())
    write_config(first.cfg, output_dir() / "config.yaml")
    folder, tracker = report_place(first.cfg, name), build_tracker(first.cfg)
    told = {"members": names, "out_of_fold": out_of_fold, "notes": plan.notes}
    tags = {"study": "ensemble", "members": " ".join(names), "git_commit": git_commit()}
    with run_session(tracker, name, params=flatten(plain(first.cfg)), tags=tags, run_id=""):
        metrics = report_test(
            first.family,
            plan.evaluate,
            plan.data,
            folder,
            Course(history=[], best_epoch=0),
            tracker,
            files={ENSEMBLE_NAME: json.dumps(told, indent=2) + "\n"},
        )
    return EnsembleTest(name, metrics, folder)


def read_ensemble(folder: Path) -> list[str]:
    """Return the members of the ensemble whose report lies in a folder, the first of them first.

    Raises:
        UserError: The file that names them is damaged.
    """
    path = folder / ENSEMBLE_NAME
    try:
        members = json.loads(path.read_text(encoding="utf-8"))["members"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); test the ensemble again.") from error
    return [str(member) for member in members]


def read_for_test(path: Path, cfg: DictConfig) -> Member:
    """Return a run with its own configuration but for what was typed for the test."""
    content = load_checkpoint(path)
    own = stored_config(content, cfg, may_change=TEST_MAY_CHANGE, command="test")
    if "classes" in own.data:
        own.data.classes = content["class_names"]
    run = rebuild(content, own)
    application = run.family.application(plain(own)["data"], {})
    return Member(run_name=content["run_name"], path=path, run=run, application=application)


def plan_ensemble(members: Sequence[Member], trainer: Trainer) -> Plan:
    """Plan the test of an ensemble: all members predict all samples."""
    check_can_merge(members)
    split = _common_split(members)
    application = EnsembleApplication([member.application for member in members if member.application])
    data, *beside = [members[number].run.build_data(split=split) for number in application.view_members]
    data.check_truth(members[0].run.family.needs, ("test",))
    task = trainer.prepare(EnsembleTask([member.run.build_task() for member in members], application))
    loader = data.evaluation_loader("test", beside=beside)
    return Plan(data, partial(trainer.evaluate, task, loader, title="test"), [])


def _common_split(members: Sequence[Member]) -> Split:
    """Return the split whose test subset is that of all members, of which none has seen a sample.

    Raises:
        UserError: There is none.
    """
    first = members[0]
    split = _split(first)
    tested = split.subsets["test"]
    groups = {split.groups[id_] for id_ in tested}
    remedy = (
        "test the folds of one study with out_of_fold=true, or give data.split_file= with a test subset that "
        "none of them has seen"
    )
    for member in members:
        own = _stored_split(member)
        trained = set(own.subsets["train"])
        trained_groups = {own.groups[id_] for id_ in trained}
        seen = [id_ for id_ in tested if id_ in trained or split.groups[id_] in trained_groups & groups]
        if seen:
            raise UserError(
                f"{len(seen)} of {len(tested)} test samples of {first.run_name} were training samples of "
                f"{member.run_name}, e.g. {seen[0]!r}; {remedy}."
            )
        if set(_split(member).subsets["test"]) != set(tested):
            raise UserError(f"{first.run_name} and {member.run_name} have different test subsets; {remedy}.")
    if all(_stored_split(member).sha256 == split.sha256 for member in members):
        return split
    return _tested_only(split, tested)


def _stored_split(member: Member) -> Split:
    split = split_of(member.run.content)
    assert split is not None
    return split


def _split(member: Member) -> Split:
    """Return the split that a test of the member uses."""
    if keeps_split(member.run.content, member.run.cfg):
        return _stored_split(member)
    return member.run.build_data(split=None).split


def _tested_only(split: Split, ids: Sequence[str]) -> Split:
    return replace(split, subsets={"train": [], "val": [], "test": sorted(ids)})


def plan_folds(members: Sequence[Member], trainer: Trainer) -> Plan:
    """Plan the test of folds: each sample is predicted by the member whose test subset it is in."""
    check_agreement(members)
    members = sorted(members, key=lambda member: member.run_name)
    if len({member.grid for member in members}) > 1:
        raise UserError(
            "out_of_fold=true puts the samples of all runs into one report, whose masks must be of one grid, "
            f"but {members[0].run_name} and others differ in data.image_size; name the folds of one study."
        )
    splits = [_split(member) for member in members]
    parts, notes = _parts(members, splits)
    everything = Split(
        subsets={"train": [], "val": [], "test": sorted(id_ for ids in parts for id_ in ids)},
        groups={id_: group for split in splits for id_, group in split.groups.items()},
        labels={id_: label for split in splits for id_, label in split.labels.items()},
    )
    data = members[0].run.build_data(split=everything)
    missing = sorted({record.id for record in data.records} - set(everything.subsets["test"]))
    if missing:
        notes.append(
            f"{len(missing)} of {len(data.records)} samples are tested by none of the runs, e.g. "
            f"{missing[0]!r}: the numbers are of the others"
        )
    data.check_truth(members[0].run.family.needs, ("test",))
    folds = [
        (member, _tested_only(split, ids))
        for member, split, ids in zip(members, splits, parts, strict=True)
        if ids
    ]
    return Plan(data, partial(_evaluate_folds, folds, trainer), notes)


def _parts(members: Sequence[Member], splits: Sequence[Split]) -> tuple[list[list[str]], list[str]]:
    """Return the samples that each member tests, each once; and what must be said of that.

    Raises:
        UserError: All runs test the same samples, or one tests what it was trained on.
    """
    tested = [split.subsets["test"] for split in splits]
    if len(members) > 1 and all(set(ids) == set(tested[0]) for ids in tested):
        raise UserError(
            f"{members[0].run_name} and the others test the same samples, so there are no folds; leave "
            "out_of_fold=true out to test their ensemble."
        )
    taken: set[str] = set()
    parts, twice = [], set()
    for member, ids in zip(members, tested, strict=True):
        seen = set(ids) & set(_stored_split(member).subsets["train"])
        if seen:
            raise UserError(
                f"{len(seen)} test samples of {member.run_name} were training samples of it, e.g. "
                f"{min(seen)!r}; leave data.split_file= out."
            )
        twice |= taken & set(ids)
        parts.append([id_ for id_ in ids if id_ not in taken])
        taken |= set(ids)
    notes = [
        f"{len(twice)} samples are tested by several runs, e.g. {id_!r}: the first of these counts"
        for id_ in sorted(twice)[:1]
    ]
    return parts, notes


def _evaluate_folds(
    folds: Sequence[tuple[Member, Split]], trainer: Trainer, *, consume: Callable[[Sequence[Any]], None]
) -> Rows:
    """Evaluate each member on its samples, as its own test does; return the rows of all, sorted by id."""
    parts = []
    for member, split in folds:
        data = member.run.build_data(split=split)
        task = trainer.prepare(member.run.build_task())
        loader = data.evaluation_loader("test")
        parts.append(trainer.evaluate(task, loader, title=member.run_name, consume=consume))
    return join_rows(parts)


def join_rows(parts: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    """Return the rows of different samples, sorted by id; columns that not all parts have are left out."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    order = np.argsort(np.concatenate([part["ids"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in names}
