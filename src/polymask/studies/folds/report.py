"""The report on studies: tables as text and CSV, a figure, and all numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from polymask.studies.folds.figure import plot_studies
from polymask.studies.folds.gathering import NUM_FOLDS, Study, notes_on_all, shared_metrics
from polymask.studies.folds.statistics import MetricSummary
from polymask.utils.files import write_text
from polymask.utils.numbers import none_for_nan
from polymask.utils.tables import csv_text
from polymask.utils.text import align_columns

_COLUMNS = ("mean", "std", "pooled", "low", "high")
_HEAD = ("mean ± std", "pooled [95 % interval]")
_LEGEND = (
    "mean ± std: over the folds, the deviation with n - 1; no standard error: folds share training images",
    "pooled: the test samples of all folds as one set, with a 95 % bootstrap interval over their groups; for",
    "        metrics that rank by score (AUROC, average precision) it mixes the scores of different models",
)


def write_summary(folder: Path, studies: Sequence[Study]) -> dict[str, float]:
    """Write `summary.txt`, `summary.csv`, `summary.png` and `metrics.json`.

    Args:
        folder: An existing, empty folder.
        studies: What `gather_folds` returned, at least one.

    Returns:
        The numbers for a tracker, named `{study}/{metric}_{mean, std, pooled, …}`; NaN where undefined.
    """
    write_text(folder / "summary.txt", summary_text(studies))
    write_text(folder / "summary.csv", _csv(studies))
    plot_studies(studies, folder / "summary.png")
    write_text(folder / "metrics.json", json.dumps(_content(studies), indent=2) + "\n")
    return {
        f"{study.name}/{metric}_{column}": getattr(summary, column)
        for study in studies
        for metric, summary in study.metrics.items()
        for column in _COLUMNS
    }


def summary_text(studies: Sequence[Study]) -> str:
    """Return a table for each study and, of several, one of all on the metrics that they share."""
    sections = [_study(study) for study in studies]
    if len(studies) > 1:
        sections.append(_side_by_side(studies))
    sections.append(list(_LEGEND))
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _study(study: Study) -> list[str]:
    folds = [run.fold for run in study.runs if run.fold is not None]
    head = ["metric", *_HEAD, *(f"fold {fold}" for fold in folds)]
    rows = [
        [name, *_cells(summary), *(map(_number, summary.values) if folds else ())]
        for name, summary in study.metrics.items()
    ]
    kind = f"{len(folds)} of {study.runs[0].config[NUM_FOLDS]} folds" if folds else "one run"
    return [
        f"{study.name}: {kind}, {len(study.ids):,} test samples of {study.num_groups:,} groups",
        f"  {', '.join(run.name for run in study.runs)}",
        *(f"  note: {note}" for note in study.notes),
        *align_columns([head, *rows], left=len(head), indent="  "),
    ]


def _side_by_side(studies: Sequence[Study]) -> list[str]:
    """Return the table in which the studies stand below each other, metric by metric."""
    notes = [f"  note: {note}" for note in notes_on_all(studies)]
    shared = shared_metrics(studies)
    if not shared:
        return ["All studies", *notes, "  They share no metric."]
    lines = []
    for metric in shared:
        for number, study in enumerate(studies):
            cells = _cells(study.metrics[metric])
            lines.append([metric if number == 0 else "", study.name, str(len(study.runs)), *cells])
    head = ["metric", "study", "runs", *_HEAD]
    table = align_columns([head, *lines], left=len(head), indent="  ")
    # An empty line between metrics: the eye compares within one.
    spaced = [
        line
        for number, line in enumerate(table)
        for line in ([""] if number and (number - 1) % len(studies) == 0 else []) + [line]
    ]
    return ["All studies on the metrics that they share", *notes, *spaced]


def _cells(summary: MetricSummary) -> list[str]:
    """Return mean ± std, with the number of folds where it is not all of them, and pooled [interval]."""
    defined = sum(not math.isnan(value) for value in summary.values)
    if not defined and math.isnan(summary.pooled):
        return ["-", "-"]
    spread = f" ± {_number(summary.std)}" if len(summary.values) > 1 else ""
    partly = f" (of {defined})" if defined < len(summary.values) else ""
    interval = f" [{_number(summary.low)}, {_number(summary.high)}]"
    return [f"{_number(summary.mean)}{spread}{partly}", f"{_number(summary.pooled)}{interval}"]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _csv(studies: Sequence[Study]) -> str:
    """Return one line per study and metric; a fold that a study lacks, and NaN, is an empty cell."""
    folds = sorted({run.fold for study in studies for run in study.runs if run.fold is not None})
    columns = ("study", "metric", "num_runs", *_COLUMNS, *(f"fold_{fold}" for fold in folds))
    lines: list[Sequence[object]] = []
    for study in studies:
        for metric, summary in study.metrics.items():
            by_fold = dict(zip((run.fold for run in study.runs), summary.values, strict=True))
            numbers = [getattr(summary, column) for column in _COLUMNS]
            numbers += [by_fold.get(fold, math.nan) for fold in folds]
            lines.append((study.name, metric, len(study.runs), *map(none_for_nan, numbers)))
    return csv_text(columns, lines)


def _content(studies: Sequence[Study]) -> dict[str, object]:
    return {
        "intervals": "95 % percentile bootstrap of the pooled samples, resampled by group",
        "shared_metrics": shared_metrics(studies),
        "notes": notes_on_all(studies),
        "studies": {
            study.name: {
                "runs": {run.name: run.fold for run in study.runs},
                "num_samples": len(study.ids),
                "num_groups": study.num_groups,
                "notes": list(study.notes),
                "metrics": {name: _values(summary) for name, summary in study.metrics.items()},
            }
            for study in studies
        },
    }


def _values(summary: MetricSummary) -> dict[str, object]:
    """Return a summary for JSON."""
    numbers = {column: none_for_nan(getattr(summary, column)) for column in _COLUMNS}
    return {**numbers, "values": [none_for_nan(value) for value in summary.values]}
