"""Who predicts which sample when several runs are tested together, checked before anything is predicted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from polymask.data.module import DataModule
from polymask.data.splits.split import Split
from polymask.errors import UserError
from polymask.factories import build_family
from polymask.families.base import Family
from polymask.inference.ensemble import EnsembleApplication, EnsembleTask
from polymask.inference.members import (
    Member,
    check_agreement,
    check_can_merge,
    check_unexplained,
    undecided_family,
)
from polymask.run_config import flatten, plain
from polymask.run_parts import keeps_split, learned_from, split_of
from polymask.structures.samples import Rows
from polymask.training.trainer import Trainer

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What is tested.

    Attributes:
        data: The data set, with all tested samples as its test subset.
        family: Scores and reports; it has decided what has yet to be.
        evaluate: Returns the rows, and gives predictions to `consume`.
        how: Who predicts what, as a sentence.
        notes: What a reader must know.
        num_parameters: Of what predicts each sample, None where these differ.
    """

    data: DataModule
    family: Family
    evaluate: Callable[..., Rows]
    how: str
    notes: list[str]
    num_parameters: int | None


def plan_ensemble(members: Sequence[Member], trainer: Trainer) -> Plan:
    """Plan the test of an ensemble: all members predict all samples."""
    check_can_merge(members)
    check_unexplained(any(member.run.cfg.task.get("explain") for member in members))
    split = _common_split(members)
    application = EnsembleApplication([member.application for member in members if member.application])
    data, *beside = [member.run.build_data(split=split) for member in members]
    family = undecided_family(members[0].run)
    data.check_truth(family.needs, ("test",))
    task = EnsembleTask([member.run.build_task() for member in members], application)
    trainer.prepare(task)

    def evaluate(subset: str, **options: Any) -> Rows:
        return trainer.evaluate(task, data.evaluation_loader(subset, beside=beside), title=subset, **options)

    if family.undecided:
        if not split.subsets["val"]:
            raise UserError(
                f"{family.undecided} is decided on validation samples of the ensemble, but its members have "
                "different ones; leave it out, or name runs of one split."
            )
        log.info("%s is decided on %d validation samples", family.undecided, len(split.subsets["val"]))
        family.decide(family.decisions(evaluate("val")), task.first)
    names = ", ".join(member.run_name for member in members)
    return Plan(
        data=data,
        family=family,
        evaluate=partial(evaluate, "test"),
        how=f"Each sample was predicted by {len(members)} runs together{_calibrated(members)}: {names}",
        notes=[],
        num_parameters=sum(parameter.numel() for parameter in task.parameters()),
    )


def _calibrated(members: Sequence[Member]) -> str:
    """Say what was done to the probabilities of the members before their mean, "" for nothing."""
    kinds = {member.run_name: str(member.run.cfg.task.get("calibration") or "none") for member in members}
    if set(kinds.values()) == {"none"}:
        return ""
    if len(set(kinds.values())) == 1:
        return f", each calibrated ({min(kinds.values())}) by its own validation samples"
    told = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    return f", calibrated by their own validation samples ({told})"


def _common_split(members: Sequence[Member]) -> Split:
    """Return the split whose test subset is that of all members, of which none has seen a sample.

    Its validation subset is that of all members, or empty.

    Raises:
        UserError: There is none.
    """
    first = members[0]
    split = _split(first)
    tested = split.subsets["test"]
    remedy = (
        "test the folds of one study with out_of_fold=true, or give data.split_file= with a test subset that "
        "none of them has seen"
    )
    for member in members:
        seen = learned_from(member.run, {id_: split.groups[id_] for id_ in tested})
        if seen:
            raise UserError(
                f"{len(seen)} of {len(tested)} test samples of {first.run_name} were training or validation "
                f"samples of {member.run_name} (or of their groups), e.g. {seen[0]!r}; {remedy}."
            )
        if set(_split(member).subsets["test"]) != set(tested):
            raise UserError(f"{first.run_name} and {member.run_name} have different test subsets; {remedy}.")
    stored = [_stored_split(member) for member in members]
    if all(own.sha256 == split.sha256 for own in stored):
        return split
    validation = split.subsets["val"]
    if any(own.subsets["val"] != validation for own in stored):
        validation = []
    return replace(split, subsets={"train": [], "val": validation, "test": sorted(tested)})


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
    family = _family_of_folds(members)
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
    data.check_truth(family.needs, ("test",))
    folds = [
        (member, _tested_only(split, ids))
        for member, split, ids in zip(members, splits, parts, strict=True)
        if ids
    ]
    names = ", ".join(member.run_name for member in members)
    return Plan(
        data=data,
        family=family,
        evaluate=partial(_evaluate_folds, folds, trainer),
        how=(
            f"Each sample was predicted by the one of these runs that never saw it: {names}; the numbers are "
            "of single runs, not of their ensemble"
        ),
        notes=notes,
        num_parameters=None,
    )


def _family_of_folds(members: Sequence[Member]) -> Family:
    """Return what reports the samples of all folds, whose rows say themselves what each fold decided.

    Raises:
        UserError: One report cannot hold the samples of all, or a fold has yet to decide something.
    """
    first = members[0].run
    config, *others = [flatten(plain(member.run.cfg)) for member in members]
    for key in ("data.image_size", "data.fit", *(key for key in config if key.startswith("task."))):
        if any(other.get(key) != config.get(key) for other in others):
            raise UserError(
                "out_of_fold=true puts the samples of all runs into one report, but "
                f"{members[0].run_name} and others differ in {key}; name the folds of one study."
            )
    family = build_family(first.cfg, first.content["class_names"])
    if family.undecided and type(family).decided is Family.decided:
        raise UserError(
            f"{family.undecided} decides for each fold otherwise, and one report holds all; give a value."
        )
    for member in members:
        waits = member.run.family.undecided
        if waits:
            raise UserError(
                f"{waits} is decided on each fold's own validation samples, of which the checkpoint of "
                f"{member.run_name} knows nothing: test it once alone, with {waits}."
            )
    return family


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
    for member, split, ids in zip(members, splits, tested, strict=True):
        seen = learned_from(member.run, {id_: split.groups[id_] for id_ in ids})
        if seen:
            raise UserError(
                f"{len(seen)} test samples of {member.run_name} (or of their groups) were training or "
                f"validation samples of it, e.g. {seen[0]!r}; leave data.split_file= out."
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
        rows = trainer.evaluate(task, loader, title=member.run_name, consume=consume)
        parts.append(member.run.family.decided(rows))
    return join_rows(parts)


def join_rows(parts: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    """Return the rows of different samples, sorted by id; columns that not all parts have are left out."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    order = np.argsort(np.concatenate([part["ids"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in names}
