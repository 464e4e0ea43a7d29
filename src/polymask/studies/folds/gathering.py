"""Tested runs gathered into studies: the folds of one cross-validation, or a run on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from polymask.errors import UserError
from polymask.run_config import ANYTIME, flatten
from polymask.studies.folds.names import study_names
from polymask.studies.folds.statistics import MetricSummary, Rows, SampleMetrics, summarize_metrics
from polymask.studies.tested_run import RunOnDisk
from polymask.training.run_names import metric_of

FOLD = "data.fold"
NUM_FOLDS = "data.num_folds"
DATA_DIR = "data.data_dir"
NOT_THE_STUDY = (FOLD, "resume", "test_after_training", *ANYTIME)
"""Keys (or the start of keys) in which runs of one study may differ: the fold, names, paths, machinery."""


@dataclass(frozen=True, kw_only=True)
class FoldRun:
    """A tested run.

    Attributes:
        name: Name of the run.
        config: Its configuration, nested values under dotted keys.
        rows: What its test left of each sample, `ids` (N,) among them.
        groups: Group of each sample.
        metrics: `metrics` of its scorer: of rows and (R, N) weights or None, to (R,) per name.
        tracker_run_id: The tracker's own id of the run, "" when it has none.
        headline: The metrics that a person wants to see first.
    """

    name: str
    config: Mapping[str, Any]
    rows: Rows
    groups: Sequence[str]
    metrics: SampleMetrics
    tracker_run_id: str = ""
    headline: Sequence[str] = ()

    @property
    def fold(self) -> int | None:
        """Return which fold of a cross-validation was tested, None when the run is no part of one."""
        return self.config[FOLD] if self.config.get(NUM_FOLDS) is not None else None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs with one configuration apart from the fold, or one run.

    Attributes:
        name: What was trained, and what tells it from the other studies.
        runs: The runs by fold.
        metrics: Metric name to its summary.
        notes: What a reader of the numbers must know.
    """

    name: str
    runs: tuple[FoldRun, ...]
    metrics: dict[str, MetricSummary]
    notes: tuple[str, ...]

    @property
    def ids(self) -> set[str]:
        """Return the samples that were tested."""
        return {str(name) for run in self.runs for name in run.rows["ids"]}

    @property
    def headline(self) -> Sequence[str]:
        """Return the metrics that a person wants to see first."""
        return self.runs[0].headline

    @property
    def num_groups(self) -> int:
        """Return the number of groups that were tested."""
        return len({group for run in self.runs for group in run.groups})


def gather_folds(runs: Sequence[FoldRun], *, num_replicates: int = 1000, seed: int = 0) -> list[Study]:
    """Put runs together that differ in the fold only, and sum up their metrics.

    Args:
        runs: Tested runs, of any tasks.
        num_replicates: Replicates of the bootstrap.
        seed: Seed of the bootstrap.

    Returns:
        The studies in the order in which their first runs came. A missing fold, a test subset that all
        folds share and data of different places are told in their notes.

    Raises:
        UserError: No run, a run or a fold twice, or folds that test some of the same samples.
    """
    if not runs:
        raise UserError("there is no run to sum up; name some: polymask summarize RUN ...")
    members = grouped_folds(runs)
    names = study_names([(_identity(group[0]), group[0].name) for group in members])
    return [
        Study(
            name=name,
            runs=tuple(group),
            metrics=summarize_metrics(
                [run.rows for run in group],
                [run.groups for run in group],
                [run.metrics for run in group],
                num_replicates=num_replicates,
                seed=seed,
            ),
            notes=tuple(_notes(group)),
        )
        for name, group in zip(names, members, strict=True)
    ]


def as_fold(tested: RunOnDisk) -> FoldRun:
    """Return a tested run as one of a study."""
    content, scorer = tested.run.content, tested.run.family.scorer
    # The same file name may stand for other corrections, and one training may leave several best epochs.
    besides = {"data.corrections_sha256": content["corrections_sha256"], "best by": metric_of(tested.name)}
    return FoldRun(
        name=tested.name,
        config=flatten(content["config"]) | {key: value for key, value in besides.items() if value},
        rows=tested.rows,
        groups=tested.groups,
        metrics=scorer.metrics,
        headline=scorer.headline,
        tracker_run_id=content["tracker_run_id"],
    )


def grouped_folds(runs: Sequence[FoldRun]) -> list[list[FoldRun]]:
    """Return the runs of each study by fold, in the order in which their first runs came.

    Raises:
        UserError: A run or a fold twice, or folds that test some of the same samples.
    """
    for run in runs:
        if [other.name for other in runs].count(run.name) > 1:
            raise UserError(f"run {run.name!r} is given twice; name each run once.")
    return [_sorted_by_fold(group) for group in _grouped(runs)]


def notes_on_all(studies: Sequence[Study]) -> list[str]:
    """Return what hinders a comparison of the studies with each other."""
    sets = [study.ids for study in studies]
    if all(ids == sets[0] for ids in sets):
        return []
    sizes = ", ".join(f"{len(ids):,} of {study.name}" for study, ids in zip(studies, sets, strict=True))
    common = len(set.intersection(*sets))
    return [
        f"the studies were not tested on the same samples ({sizes}; {common:,} in common), which "
        "alone makes their metrics differ"
    ]


def shared_metrics(studies: Sequence[Study]) -> list[str]:
    """Return the metrics that all studies have, in the order of the first."""
    return [name for name in studies[0].metrics if all(name in study.metrics for study in studies)]


def _identity(run: FoldRun) -> dict[str, Any]:
    """Return the configuration without what may differ within a study."""
    return {
        key: value
        for key, value in run.config.items()
        if not any(key == own or key.startswith(f"{own}.") for own in NOT_THE_STUDY)
    }


def _grouped(runs: Sequence[FoldRun]) -> list[list[FoldRun]]:
    """Return the runs of each study; a run that is no fold is a study of its own."""
    groups: dict[tuple[str, ...], list[FoldRun]] = {}
    for run in runs:
        settings = sorted(f"{key}={value!r}" for key, value in _identity(run).items())
        key = tuple(settings) if run.fold is not None else (run.name,)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _sorted_by_fold(runs: Sequence[FoldRun]) -> list[FoldRun]:
    """Return the folds in order, checked against each other."""
    ordered = sorted(runs, key=lambda run: run.fold or 0)
    tested = {run.name: {str(name) for name in run.rows["ids"]} for run in ordered}
    for first, second in combinations(ordered, 2):
        if first.fold == second.fold:
            raise UserError(
                f"runs {first.name!r} and {second.name!r} are both fold {first.fold} of one cross-validation "
                "of equal configuration; leave one of them out."
            )
        both = tested[first.name] & tested[second.name]
        if both and not _same_test(ordered):
            raise UserError(
                f"folds {first.fold} ({first.name}) and {second.fold} ({second.name}) were both tested on "
                f"{len(both)} samples, e.g. {min(both)}, so they are not of one cross-validation: leave one "
                "of them out, or train it again on the same data."
            )
    return ordered


def _same_test(runs: Sequence[FoldRun]) -> bool:
    """Return whether all runs were tested on the same samples, as where the data set prescribes them."""
    return len({frozenset(run.rows["ids"].tolist()) for run in runs}) == 1


def _notes(runs: Sequence[FoldRun]) -> list[str]:
    notes = []
    num_folds = runs[0].config.get(NUM_FOLDS)
    missing = sorted(set(range(num_folds or 0)) - {run.fold for run in runs})
    if missing:
        folds = f"fold {missing[0]} is" if len(missing) == 1 else f"folds {', '.join(map(str, missing))} are"
        notes.append(f"{folds} missing ({NUM_FOLDS}={num_folds}): the numbers are of the others alone")
    if len(runs) > 1 and _same_test(runs):
        notes.append(
            "all folds were tested on the same samples: pooled counts each sample once per fold, and its "
            "interval is over samples"
        )
    places = sorted({str(run.config.get(DATA_DIR)) for run in runs})
    if len(places) > 1:
        notes.append(f"the folds took their data from different places: {', '.join(places)}")
    return notes
