"""The page of a study: of a comparison, a summary, an analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymask.reporting.page.blocks import Block, Cards, Facts, Page, Section, Text
from polymask.reporting.page.files import file_sections, folder_of_pictures
from polymask.reporting.page.measured import details
from polymask.reporting.page.rendering import PAGE_NAME, write_page
from polymask.utils.files import REPORT_NAME

_MOST_PICTURES = 24


def write_study_page(folder: Path, *, kind: str, title: str, lead: str, cards: Cards) -> None:
    """Write `report.html` into the folder of a study, from the files that lie there.

    Args:
        folder: The folder; `metrics.json` is in it.
        kind: What the study is.
        title: What it is about.
        lead: A sentence on it.
        cards: The numbers to be seen first.
    """
    content = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    notes = [("Note", str(note)) for note in content.pop("notes", [])]
    pictures = folder_of_pictures(folder / "pictures", most=_MOST_PICTURES)
    page = Page(
        kind=kind,
        title=title,
        lead=lead,
        sections=[
            Section(id="headline", title="Headline", blocks=[cards] if cards.cards else []),
            Section(id="notes", title="Notes", blocks=[Facts(pairs=notes)] if notes else []),
            *file_sections(folder),
            Section(id="pictures", title="Largest differences", blocks=pictures),
            Section(id="about", title="About", blocks=_about(folder, content)),
        ],
        footer=f"Made by polymask from the files of the folder {title}.",
    )
    write_page(folder / PAGE_NAME, page)


def _about(folder: Path, content: Mapping[str, Any]) -> list[Block]:
    """Return how it was made, the folders with reports of their own, and the texts for terminals."""
    parts = sorted(path.parent.name for path in folder.glob(f"*/{REPORT_NAME}"))
    pairs = [*details(content), *(("A report of its own", f"{part}/{PAGE_NAME}") for part in parts)]
    texts = [
        Text(title=f"{path.name}, with how to read it", text=path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.txt"))
    ]
    return [*([Facts(pairs=pairs)] if pairs else []), *texts]
