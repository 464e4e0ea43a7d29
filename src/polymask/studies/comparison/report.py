"""The comparison of two tested runs: table, figure, and pictures of the images where they differ most."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.images import write_image
from polymask.errors import whole_number
from polymask.reporting.canvas import stack_panels, text_bar
from polymask.studies.comparison.figures import plot_comparison
from polymask.studies.comparison.sides import Side, align
from polymask.studies.comparison.statistics import MetricComparison, compare_samples
from polymask.studies.comparison.subgroups import write_subgroup_comparison
from polymask.studies.comparison.text import comparison_text
from polymask.utils.files import REPORT_NAME, write_text
from polymask.utils.numbers import none_for_nan
from polymask.utils.tables import csv_text

log = logging.getLogger(__name__)

_COLUMNS = ("metric", "a", "b", "difference", "low", "high", "p_value")


def write_comparison(
    folder: Path,
    side_a: Side,
    side_b: Side,
    *,
    num_pictures: int,
    num_replicates: int,
    num_permutations: int,
    seed: int,
    notes: Sequence[str] = (),
) -> list[MetricComparison]:
    """Compare two tested runs of the same task and write the report.

    Writes `comparison.txt`, `comparison.csv`, `comparison.png`, `per_sample.csv` and `metrics.json`, and
    where samples differ `pictures/{rank}_{id}.png`; where the tests know subgroups, `subgroups.csv` and
    `subgroups.png`. When the tests were on different images, those that they
    have in common are compared, and the notes and the log say so.

    Losses are not compared: a sample carries the one of its batch.

    Args:
        folder: Where to write.
        side_a: Run A.
        side_b: Run B; differences are B - A.
        num_pictures: Images to draw at most: half where A is better and half where B is, where there are
            such.
        num_replicates: Replicates of the bootstrap.
        num_permutations: Swaps of the permutation test at most.
        seed: Seed of both.
        notes: More sentences for the text, such as where the weights are from.

    Returns:
        One entry per metric, see `compare_samples`.

    Raises:
        UserError: The runs cannot be compared, see `align`, a number is out of range, or an
            image cannot be read.
    """
    side_a, side_b, own_notes = align(side_a, side_b)
    for note in own_notes:
        log.warning("%s", note)
    return write_aligned(
        folder,
        side_a,
        side_b,
        num_pictures=num_pictures,
        num_replicates=num_replicates,
        num_permutations=num_permutations,
        seed=seed,
        notes=[*own_notes, *notes],
    )


def write_aligned(
    folder: Path,
    side_a: Side,
    side_b: Side,
    *,
    num_pictures: int,
    num_replicates: int,
    num_permutations: int,
    seed: int,
    notes: Sequence[str],
) -> list[MetricComparison]:
    """Write the report of two runs on the same samples in the same order; see `write_comparison`."""
    whole_number("num_pictures", num_pictures, least=0)
    draws = {"num_replicates": num_replicates, "num_permutations": num_permutations}
    metrics = partial(side_a.family.scorer.metrics, per_class=True)
    results = compare_samples(metrics, side_a.rows, side_b.rows, side_a.groups, **draws, seed=seed)
    notes = [*notes, *write_subgroup_comparison(folder, side_a, side_b, **draws, seed=seed)]
    numbers = {"num_images": len(side_a.groups), "num_groups": len(set(side_a.groups)), **draws}
    text = comparison_text(results, **numbers, name_a=side_a.name, name_b=side_b.name, notes=notes)
    write_text(folder / "comparison.txt", text)
    lines = [[*map(none_for_nan, asdict(result).values())] for result in results]
    write_text(folder / "comparison.csv", csv_text(_COLUMNS, lines))
    plot_comparison(results, side_a.name, side_b.name, folder / "comparison.png")
    _write_samples(folder, side_a, side_b, num_pictures)
    content = {
        "name_a": side_a.name,
        "name_b": side_b.name,
        **numbers,
        "seed": seed,
        "notes": list(notes),
        "metrics": {result.name: _entry(result) for result in results},
    }
    write_text(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    return results


def most_different(differences: np.ndarray, number: int) -> list[int]:
    """Choose samples on which two runs differ, half of them for each run.

    Args:
        differences: (N,) score of B - score of A; NaN where unknown.
        number: How many to choose at most. Where one run is better on too few, the other one fills up.

    Returns:
        Indices, the largest difference first; samples without a difference are never chosen.
    """
    order = np.argsort(-np.abs(differences), kind="stable").tolist()  # NaN comes last
    better_a = [index for index in order if differences[index] < 0]
    better_b = [index for index in order if differences[index] > 0]
    of_a = max(number // 2, number - len(better_b))
    of_b = max(number - number // 2, number - len(better_a))
    chosen = {*better_a[:of_a], *better_b[:of_b]}
    return [index for index in order if index in chosen]


def _write_samples(folder: Path, side_a: Side, side_b: Side, num_pictures: int) -> None:
    """Write the table of samples and the pictures of those that differ most."""
    scores_a, scores_b = (side.family.scorer.scores(side.rows) for side in (side_a, side_b))
    ids = side_a.rows["ids"].tolist()
    columns: dict[str, Sequence[Any]] = {"id": ids, "group": side_a.groups}
    for name in scores_a:
        columns[f"{name}_a"], columns[f"{name}_b"] = scores_a[name].tolist(), scores_b[name].tolist()
        columns[f"{name}_difference"] = (scores_b[name] - scores_a[name]).tolist()
    lines = [[*map(none_for_nan, line)] for line in zip(*columns.values(), strict=True)]
    write_text(folder / "per_sample.csv", csv_text(list(columns), lines))
    known = [name for name in scores_a if not np.isnan(scores_b[name] - scores_a[name]).all()]
    if not known:
        return
    name = known[0]
    chosen = most_different(scores_b[name] - scores_a[name], num_pictures)
    for rank, index in enumerate(chosen, start=1):
        values = float(scores_a[name][index]), float(scores_b[name][index])
        picture = _picture(ids[index], side_a, side_b, name, values)
        write_image(folder / "pictures" / f"{rank:02d}_{ids[index]}.png", picture)


def _picture(id_: str, side_a: Side, side_b: Side, score: str, values: tuple[float, float]) -> np.ndarray:
    """Return the pictures of both runs, A above B, each below its name and score."""
    parts = []
    for letter, side, value, other in zip("AB", (side_a, side_b), values, values[::-1], strict=True):
        panel = side.report.picture(id_)
        better = ", better" if value > other else ""
        caption = f"{letter}: {side.name} | {score.replace('_', ' ')} {value:.3f}{better}"
        parts += [text_bar(caption, panel.shape[1]), panel]
    return stack_panels(parts)


def _entry(result: MetricComparison) -> dict[str, float | None]:
    """Return a metric for JSON."""
    values = asdict(result)
    del values["name"]
    return {name: none_for_nan(value) for name, value in values.items()}
