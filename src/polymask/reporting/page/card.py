"""The model card of a run, in the format of the Hugging Face hub: a YAML header and Markdown.

It says what the run knows. What nobody told it, such as what the model is meant for, it calls unknown, for
whoever publishes the model to fill in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask import __version__
from polymask.reporting.page.blocks import Cell
from polymask.reporting.page.facts import UNKNOWN, RunFacts
from polymask.reporting.page.measured import metric_cell, subset_table
from polymask.reporting.page.numbers import readable
from polymask.reporting.page.rendering import render
from polymask.reporting.page.tables import csv_table
from polymask.utils.files import REPORT_NAME, write_text

CARD_NAME = "model_card.md"
SUBGROUPS = "subgroups.csv"

_TASKS = {"mask": "image-segmentation", "objects": "image-segmentation", "label": "image-classification"}
"""Tasks of the hub by what a network predicts; the hub has no word for anything else."""
_CANNOT_STAND = str.maketrans({"|": r"\|", "\n": " ", "\r": " "})


def write_model_card(folder: Path, facts: RunFacts, headline: Sequence[str]) -> None:
    """Write `model_card.md` into the folder of a test's results, from the files that lie there.

    Args:
        folder: The folder; `metrics.json` is in it.
        facts: What is known of the run.
        headline: The metrics to be seen first.
    """
    content = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    metrics = content.get("metrics", {})
    first = [name for name in headline if name in metrics]
    ordered = {name: metrics[name] for name in (*first, *(name for name in metrics if name not in first))}
    subgroups = csv_table(folder / SUBGROUPS, "Subgroups") if (folder / SUBGROUPS).is_file() else None
    text = render(
        "model_card.md",
        header=_header(facts, {name: metrics[name] for name in first or metrics}),
        facts=facts,
        unknown=UNKNOWN,
        version=__version__,
        intervals=content.get("intervals", UNKNOWN),
        num_samples=content.get("num_samples", UNKNOWN),
        num_groups=content.get("num_groups", UNKNOWN),
        predicts=" and ".join(facts.predicts) or UNKNOWN,
        metrics=[[Cell(text=readable(name), key=name), metric_cell(ordered[name])] for name in ordered],
        subsets=subset_table(facts),
        subgroups=subgroups,
        cell=_plain,
    )
    # Of what was escaped, quotes mean nothing in Markdown, and code shows no entities.
    text = text.replace("&#39;", "'").replace("&#34;", '"')
    write_text(folder / CARD_NAME, text)


def _header(facts: RunFacts, metrics: Mapping[str, Any]) -> str:
    """Return the YAML header; a metric without a value is left out, since the hub wants numbers."""
    # Late: it takes half a second, and a study needs none.
    from huggingface_hub.repocard_data import EvalResult, ModelCardData

    tasks = list(dict.fromkeys(task for word, task in _TASKS.items() if word in facts.predicts))
    data = facts.groups.get("data") or facts.data_name or UNKNOWN
    values = {name: _value(entry) for name, entry in metrics.items()}
    results = [
        EvalResult(
            task_type=tasks[0] if tasks else "other",
            dataset_type=data,
            dataset_name=facts.data_name or data,
            dataset_split="test",
            metric_type=name,
            metric_name=readable(name),
            metric_value=value,
        )
        for name, value in values.items()
        if value is not None
    ]
    header = ModelCardData(
        license=UNKNOWN,
        library_name="polymask",
        tags=["polymask", "pytorch", *tasks],
        pipeline_tag=tasks[0] if len(tasks) == 1 else None,
        metrics=list(metrics),
        model_name=facts.name,
        eval_results=results or None,
    )
    return header.to_yaml()


def _value(entry: Any) -> float | None:
    value = entry.get("value") if isinstance(entry, Mapping) else entry
    return None if value is None or math.isnan(value) else value


def _plain(cell: Cell) -> str:
    """Return a cell for a table of Markdown."""
    interval = f" ({cell.low.text} to {cell.high.text})" if cell.low and cell.high else ""
    key = f" ({cell.key})" if cell.key and cell.key != cell.text else ""
    return f"{cell.text}{key}{interval}".translate(_CANNOT_STAND)
