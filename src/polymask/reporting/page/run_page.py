"""The page of a tested run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.reporting.page.blocks import Block, Cell, Facts, Page, Section, Table
from polymask.reporting.page.facts import UNKNOWN, RunFacts
from polymask.reporting.page.files import file_sections
from polymask.reporting.page.gallery import Samples, gallery
from polymask.reporting.page.known import MORE
from polymask.reporting.page.measured import details, headline_cards, metric_tables, subset_table
from polymask.reporting.page.rendering import PAGE_NAME, write_page
from polymask.utils.files import REPORT_NAME


def write_run_page(folder: Path, facts: RunFacts, samples: Samples, headline: Sequence[str]) -> None:
    """Write `report.html` into the folder of a test's results, from the files that lie there.

    Args:
        folder: The folder; `metrics.json` is in it.
        facts: What is known of the run.
        samples: The tested samples, for the gallery.
        headline: The metrics to be seen first.
    """
    content = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    cases = gallery(folder, samples)
    shown = file_sections(folder)
    page = Page(
        kind="Test report",
        title=facts.name,
        lead=_lead(content, facts),
        sections=[
            Section(id="headline", title="Headline", blocks=headline_cards(content, headline)),
            Section(id="metrics", title="Metrics", blocks=metric_tables(content, facts.class_names)),
            *(section for section in shown if section.title != MORE),
            Section(
                id="gallery",
                title="Gallery",
                blocks=[cases] if cases else [],
                lead=_gallery_lead(cases.score) if cases else "",
            ),
            Section(id="data", title="Data", blocks=_data_blocks(facts)),
            Section(id="run", title="Run", blocks=_run_blocks(facts, content)),
            *(section for section in shown if section.title == MORE),
        ],
        footer=f"Made by polymask from the files of the folder {facts.name}.",
    )
    write_page(folder / PAGE_NAME, page)


def _lead(content: Mapping[str, Any], facts: RunFacts) -> str:
    samples, groups = content.get("num_samples"), content.get("num_groups")
    counted = f"{samples:,} test samples" if samples else "The test subset"
    if groups and groups != samples:
        counted += f" in {groups:,} groups"
    seen = f" The run was trained on {facts.num_seen:,} of them." if facts.num_seen else ""
    return " ".join([f"{counted}, from the data set {facts.data_name or UNKNOWN}.{seen}", *facts.notes])


def _gallery_lead(score: str) -> str:
    return f"The worst, the median and the best test samples by {score}, of all and of each class."


def _data_blocks(facts: RunFacts) -> list[Block]:
    subsets = subset_table(facts)
    return [*([subsets] if subsets else []), Facts(pairs=facts.data_pairs())]


def _run_blocks(facts: RunFacts, content: Mapping[str, Any]) -> list[Block]:
    # The hash of the split stands with the data, unless the test was on another one.
    told = [pair for pair in details(content) if pair[1] != facts.split_sha256]
    blocks: list[Block] = [Facts(pairs=facts.pairs() + told)]
    if facts.config:
        rows = [[Cell(text=key), Cell(text=value)] for key, value in facts.config_pairs()]
        blocks.append(
            Table(
                caption="Configuration that all members share" if facts.members else "Configuration",
                columns=("Key", "Value"),
                numeric=(False, False),
                rows=rows,
                folded=True,
            )
        )
    return blocks
