"""The page of each study, `report.html` beside its tables and figures: the same style as that of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polymask.reporting.page.blocks import Card, Cards
from polymask.reporting.page.numbers import common_axis, number, readable, shown, with_interval
from polymask.reporting.page.study_page import write_study_page

if TYPE_CHECKING:
    from polymask.studies.comparison.statistics import MetricComparison
    from polymask.studies.folds.gathering import Study

_ANALYSIS = ("num_images", "num_groups", "num_masks", "num_empty_masks", "mask_share_mean", "num_objects")
_EACH = 2  # metrics of each of several runs or studies to be seen first


def write_comparison_page(
    folder: Path, name_a: str, pairs: Mapping[str, Sequence[MetricComparison]], headline: Sequence[str]
) -> None:
    """Write the page of a comparison; of several runs also that of each pair, into the folder of the pair.

    Args:
        folder: The folder of the comparison.
        name_a: The run that all others are compared with.
        pairs: The metrics, by the name of the other run.
        headline: The metrics to be seen first.
    """
    if len(pairs) > 1:
        for name_b, results in pairs.items():
            write_comparison_page(folder / name_b, name_a, {name_b: results}, headline)
    names = headline if len(pairs) == 1 else headline[:_EACH]
    chosen = [
        (run, result)
        for run, results in pairs.items()
        for metric in names
        for result in results
        if result.name == metric
    ]
    axis = common_axis(value for _, own in chosen for value in (own.difference, own.low, own.high))
    cards = [
        Card(
            name=readable(own.name) if len(pairs) == 1 else f"{readable(own.name)}, {run}",
            key=own.name,
            cell=with_interval(own.difference, own.low, own.high, axis=axis),
            note=f"from {number(own.value_a).text} to {number(own.value_b).text}, p = {shown(own.p_value)}",
        )
        for run, own in chosen
    ]
    write_study_page(
        folder,
        kind="Comparison",
        title=f"{name_a} and {', '.join(pairs)}",
        lead=f"Differences are those to {name_a} (A): positive where the other run has the larger value.",
        cards=Cards(
            cards=cards,
            note="Large: the difference. Intervals and p-values are paired: both runs saw the same samples.",
        ),
    )


def write_summary_page(folder: Path, studies: Sequence[Study]) -> None:
    """Write the page of a summary."""
    cards = []
    for study in studies:
        shared = [name for name in study.runs[0].headline if name in study.metrics]
        for name in shared if len(studies) == 1 else shared[:_EACH]:
            own = study.metrics[name]
            ends = (own.pooled, own.low, own.high)
            cards.append(
                Card(
                    name=readable(name) if len(studies) == 1 else f"{readable(name)}, {study.name}",
                    key=name,
                    cell=with_interval(*ends, axis=common_axis(ends)),
                    note=f"folds: {shown(own.mean)} ± {shown(own.std)}",
                )
            )
    runs = sum(len(study.runs) for study in studies)
    write_study_page(
        folder,
        kind="Summary",
        title=", ".join(study.name for study in studies),
        lead=f"{runs} runs in {len(studies)} {'study' if len(studies) == 1 else 'studies'}.",
        cards=Cards(
            cards=cards, note="Large: the test samples of all folds as one set, with 95 % intervals."
        ),
    )


def write_analysis_page(folder: Path, name: str, description: str, metrics: Mapping[str, float]) -> None:
    """Write the page of an analysis.

    Args:
        folder: The folder of the analysis.
        name: Name of the data set.
        description: One line on its files.
        metrics: Its numbers, named `data/…`.
    """
    found = {key: metrics[f"data/{key}"] for key in _ANALYSIS if f"data/{key}" in metrics}
    cards = [Card(name=readable(key), key=key, cell=number(value)) for key, value in found.items()]
    write_study_page(folder, kind="Data set", title=name, lead=description, cards=Cards(cards=cards))
