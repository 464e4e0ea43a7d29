"""Out-of-fold evidence on the truth of samples: each from the run that was tested on it and never saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError
from polymask.run_parts import learned_from
from polymask.studies.folds.gathering import as_fold, grouped_folds
from polymask.studies.tested_run import RunOnDisk


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What predictions say of the truth of N samples, sorted by id.

    Attributes:
        ids: (N,) ids.
        groups: (N,) groups (patient, photograph).
        runs: (N,) name of the run whose prediction it is.
        class_names: Names of the K classes.
        labels: (N,) int given class, -1 where unknown; all of them where samples have no class.
        probabilities: (N, K); (N, 0) where samples have no class.
        masks: Name to (N,) values, higher is more suspicious, NaN without a truth; the first matters most.
        notes: What a reader must know.
    """

    ids: np.ndarray
    groups: np.ndarray
    runs: np.ndarray
    class_names: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    masks: dict[str, np.ndarray]
    notes: tuple[str, ...]


def gather_evidence(tested: Sequence[RunOnDisk]) -> Evidence:
    """Return what the folds of one study say of the samples that they were tested on.

    Args:
        tested: Tested runs: the folds of one cross-validation, or one run, of which only its test samples can
            be reviewed.

    Raises:
        UserError: The runs are not of one study, one of them learned from samples that it was tested on, or
            their task says nothing of classes and masks.
    """
    studies = grouped_folds([as_fold(run) for run in tested])
    if len(studies) != 1:
        firsts = ", ".join(study[0].name for study in studies) or "none"
        raise UserError(
            f"these runs are of {len(studies)} studies of different configuration (the first run of each: "
            f"{firsts}); name the folds of one: polymask review 'study_*'."
        )
    class_names = list(tested[0].run.content["class_names"])
    for run in tested:
        if run.run.content["class_names"] != class_names:
            raise UserError(f"run {run.name} has other classes than {tested[0].name}; review them apart.")
        check_unseen(run)
    parts = [_evidence(run) for run in tested]
    notes = [note for run in tested[:1] if (note := _coverage(run, parts))]
    ids, first = np.unique(np.concatenate([part.ids for part in parts]), return_index=True)
    if sum(len(part.ids) for part in parts) > len(ids):
        notes.append("all folds were tested on the same samples: those of the first run are reviewed")

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[first]

    shared = [name for name in parts[0].masks if all(name in part.masks for part in parts)]
    return Evidence(
        ids=ids,
        groups=joined("groups"),
        runs=joined("runs"),
        class_names=class_names,
        labels=joined("labels"),
        probabilities=joined("probabilities"),
        masks={name: np.concatenate([part.masks[name] for part in parts])[first] for name in shared},
        notes=tuple(notes),
    )


def check_unseen(run: RunOnDisk) -> None:
    """Refuse a run that knows samples that it was tested on, or others of their groups.

    Raises:
        UserError: It was trained, or its best epoch was chosen, on some of them.
    """
    ids = run.rows["ids"].tolist()
    seen = learned_from(run.run, dict(zip(ids, run.groups, strict=True)))
    if seen:
        raise UserError(
            f"run {run.name} learned from {len(seen)} of the {len(ids)} samples that it was tested on (or of "
            f"their groups), e.g. {seen[0]!r}, so it says nothing of their truth; test it on its own test "
            f"subset: polymask test run_name={run.name}"
        )


def _evidence(run: RunOnDisk) -> Evidence:
    scorer, rows, number = run.run.family.scorer, run.rows, len(run.rows["ids"])
    classes, masks = scorer.class_evidence(rows), scorer.mask_evidence(rows)
    if classes is None and not masks:
        raise UserError(
            f"run {run.name} predicts {' and '.join(sorted(run.run.family.predicts))}, by which neither the "
            "class nor the mask of a sample can be reviewed; name runs of another task."
        )
    labels, probabilities = classes or (np.full(number, -1), np.empty((number, 0)))
    return Evidence(
        ids=rows["ids"],
        groups=np.array(run.groups, dtype=str),
        runs=np.full(number, run.name),
        class_names=run.run.content["class_names"],
        labels=labels,
        probabilities=probabilities,
        masks=masks,
        notes=(),
    )


def _coverage(run: RunOnDisk, parts: Sequence[Evidence]) -> str:
    """Say how many samples of the data set no run was tested on, "" when there is none."""
    split = split_from_csv(run.run.content["split"])
    left = {id_ for own in split.subsets.values() for id_ in own}.difference(*(part.ids for part in parts))
    if not left:
        return ""
    more = "; with data.num_folds= every sample is tested once" if len(parts) == 1 else ""
    return f"{len(left):,} samples were in no test subset of these runs and are not reviewed{more}"
