"""What `metrics.json` says: the numbers to be seen first, all others, and those of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymask.reporting.page.blocks import Block, Card, Cards, Cell, Table
from polymask.reporting.page.facts import RunFacts
from polymask.reporting.page.numbers import UNDEFINED, common_axis, number, readable, with_interval

_FIRST = 4  # metrics to be seen first where none of the named ones was measured
_SECTIONS = ("metrics", "losses", "intervals")


def headline_cards(content: Mapping[str, Any], headline: Sequence[str]) -> list[Block]:
    """Return the cards of the metrics `headline`, of the first ones where none of these was measured.

    Args:
        content: What `metrics.json` holds.
        headline: Names of metrics.
    """
    metrics = content.get("metrics", {})
    names = [name for name in headline if name in metrics] or list(metrics)[:_FIRST]
    cards = [Card(name=readable(name), key=name, cell=metric_cell(metrics[name])) for name in names]
    note = str(content.get("intervals", ""))
    return [Cards(cards=cards, note=f"Intervals: {note}." if note else "")] if cards else []


def metric_tables(content: Mapping[str, Any], class_names: Sequence[str]) -> list[Block]:
    """Return the table of all metrics, that of the metrics of each class, and that of the losses.

    Args:
        content: What `metrics.json` holds.
        class_names: Names that end the keys of the metrics of a class.
    """
    metrics, losses = content.get("metrics", {}), content.get("losses", {})
    of_class = _by_class(metrics, class_names)
    overall = {
        name: entry for name, entry in metrics.items() if not any(name in own for own in of_class.values())
    }
    tables: list[Block] = []
    if overall:
        rows = [[Cell(text=readable(name), key=name), metric_cell(overall[name])] for name in overall]
        tables.append(
            Table(
                caption="All samples",
                columns=("Metric", "Value and interval"),
                numeric=(False, True),
                rows=rows,
            )
        )
    if of_class:
        tables.append(_class_table(metrics, of_class))
    if losses:
        rows = [[Cell(text=readable(name), key=name), number(value)] for name, value in losses.items()]
        tables.append(
            Table(caption="Losses", columns=("Loss", "Value"), numeric=(False, True), rows=rows, folded=True)
        )
    return tables


def details(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what `metrics.json` says of the test beside its numbers, in words."""
    return [
        (readable(name), _words(value))
        for name, value in content.items()
        if name not in _SECTIONS and value is not None and not isinstance(value, Mapping)
    ]


def subset_table(facts: RunFacts) -> Table | None:
    """Return how much of the data is in each subset, None where that is not known."""
    if not facts.subsets:
        return None
    columns = ("Subset", "Samples", "Groups", *facts.class_names)
    rows = [
        [Cell(text=own.name), *map(number, (own.num_samples, own.num_groups, *own.class_counts))]
        for own in facts.subsets
    ]
    numeric = (False, *[True] * (len(columns) - 1))
    return Table(caption="Samples of each subset", columns=columns, numeric=numeric, rows=rows)


def metric_cell(entry: Any) -> Cell:
    """Return a metric of `metrics.json`: with its interval, or a plain number."""
    if not isinstance(entry, Mapping):
        return number(entry)
    ends = [entry.get(name) for name in ("value", "low", "high")]
    return with_interval(*ends, axis=common_axis(ends))


def _by_class(metrics: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the keys of metrics that end in the name of a class: by class, key to measure."""
    longest_first = sorted(class_names, key=len, reverse=True)
    found: dict[str, dict[str, str]] = {name: {} for name in class_names}
    for key in metrics:
        name = next((name for name in longest_first if key.endswith(f"_{name}")), None)
        if name is not None:
            found[name][key] = key.removesuffix(f"_{name}")
    return {name: own for name, own in found.items() if own}


def _class_table(metrics: Mapping[str, Any], of_class: Mapping[str, Mapping[str, str]]) -> Table:
    measures = list(dict.fromkeys(measure for own in of_class.values() for measure in own.values()))
    rows = []
    for name, own in of_class.items():
        keys = {measure: key for key, measure in own.items()}
        cells = [
            metric_cell(metrics[keys[measure]]) if measure in keys else Cell(text=UNDEFINED)
            for measure in measures
        ]
        rows.append([Cell(text=name), *cells])
    return Table(
        caption="Each class",
        columns=("Class", *map(readable, measures)),
        numeric=(False, *[True] * len(measures)),
        rows=rows,
    )


def _words(value: Any) -> str:
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)  # noqa: RUF001
