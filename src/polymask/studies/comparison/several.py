"""The comparison of several tested runs with the first of them: one table, one figure, a report per pair."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from polymask.studies.comparison.figures import plot_runs
from polymask.studies.comparison.report import write_aligned
from polymask.studies.comparison.sides import Side, align_all
from polymask.studies.comparison.statistics import MetricComparison, RunMetric, bootstrap_intervals
from polymask.studies.comparison.text import runs_text
from polymask.utils.files import REPORT_NAME, write_text
from polymask.utils.numbers import none_for_nan
from polymask.utils.tables import csv_text

log = logging.getLogger(__name__)


def write_comparisons(
    folder: Path,
    sides: Sequence[Side],
    *,
    num_pictures: int,
    num_replicates: int,
    num_permutations: int,
    seed: int,
) -> dict[str, list[MetricComparison]]:
    """Compare several tested runs of the same task with the first of them, and write the report.

    Writes `comparison.txt`, `comparison.csv`, `comparison.png` and `metrics.json` with all runs, and into
    `{run}/` the report of each other run and the first, see `write_comparison`. When the tests were on
    different images, those that all runs have in common are compared, and the notes and the log say so.

    Args:
        folder: Where to write.
        sides: The runs, A first.
        num_pictures: Images to draw of a pair at most.
        num_replicates: Replicates of the bootstrap.
        num_permutations: Swaps of the permutation test at most.
        seed: Seed of both.

    Returns:
        What `compare_samples` returned, by the name of the other run.

    Raises:
        UserError: The runs cannot be compared, see `align_all`, a number is out of range, or an image cannot
            be read.
    """
    (side_a, *others), notes_of_pairs = align_all(sides)
    notes = list(dict.fromkeys(note for notes in notes_of_pairs for note in notes))
    for note in notes:
        log.warning("%s", note)
    draws = {"num_replicates": num_replicates, "num_permutations": num_permutations}
    pairs = {
        side.name: write_aligned(
            folder / side.name, side_a, side, **draws, num_pictures=num_pictures, seed=seed, notes=own_notes
        )
        for side, own_notes in zip(others, notes_of_pairs, strict=True)
    }
    lines = _lines([side_a, *others], pairs, num_replicates, seed)
    numbers = {"num_images": len(side_a.groups), "num_groups": len(set(side_a.groups)), **draws}
    write_text(folder / "comparison.txt", runs_text(lines, **numbers, notes=notes))
    columns = [field.name for field in fields(RunMetric)]
    cells = [[*map(none_for_nan, asdict(line).values())] for line in lines]
    write_text(folder / "comparison.csv", csv_text(columns, cells))
    plot_runs(lines, folder / "comparison.png")
    content = {
        "name_a": side_a.name,
        "names": [side.name for side in others],
        **numbers,
        "seed": seed,
        "notes": notes,
        "metrics": _entries(lines),
    }
    write_text(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    return pairs


def _lines(
    sides: Sequence[Side], pairs: Mapping[str, Sequence[MetricComparison]], num_replicates: int, seed: int
) -> list[RunMetric]:
    """Return each metric of A with all runs, A first."""
    metrics = partial(sides[0].family.scorer.metrics, per_class=True)
    values = {side.name: metrics(side.rows, None) for side in sides}
    intervals = {
        side.name: bootstrap_intervals(
            metrics, side.rows, sides[0].groups, num_replicates=num_replicates, seed=seed
        )
        for side in sides
    }
    differences = {(run, found.name): found for run, pair in pairs.items() for found in pair}
    lines = []
    for metric in values[sides[0].name]:
        for run in values:
            low, high = intervals[run][metric]
            value = float(values[run][metric][0])
            found = differences.get((run, metric))
            lines.append(
                RunMetric(metric=metric, run=run, value=value, low=low, high=high, **_difference(found))
            )
    return lines


def _difference(found: MetricComparison | None) -> dict[str, float]:
    """Return the difference of a run to A; nothing for A itself."""
    if found is None:
        return {}
    return {
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "p_value": found.p_value,
    }


def _entries(lines: Sequence[RunMetric]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the lines for JSON, by metric and run."""
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    for line in lines:
        values = {name: none_for_nan(value) for name, value in asdict(line).items()}
        del values["metric"], values["run"]
        entries.setdefault(line.metric, {})[line.run] = values
    return entries
