"""The page of a study: of a comparison, a summary, an analysis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from polymask.reporting.page.blocks import Block, Facts, Page, Section, Text
from polymask.reporting.page.files import file_sections, folder_of_pictures
from polymask.reporting.page.measured import details
from polymask.reporting.page.rendering import PAGE_NAME, write_page
from polymask.utils.files import REPORT_NAME

_MOST_PICTURES = 24


def write_study_page(folder: Path, *, kind: str, title: str, lead: str, cards: Sequence[Block] = ()) -> None:
    """Write `report.html` into the folder of a study, from the files that lie there.

    Args:
        folder: The folder.
        kind: What the study is.
        title: What it is about.
        lead: A sentence on it.
        cards: What to begin with.
    """
    content = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    notes = [str(note) for note in content.pop("notes", [])]
    texts = sorted(folder.glob("*.txt"))
    pictures = folder_of_pictures(folder / "pictures", most=_MOST_PICTURES)
    parts = sorted(path.parent.name for path in folder.glob(f"*/{REPORT_NAME}"))
    page = Page(
        kind=kind,
        title=title,
        lead=lead,
        sections=[
            Section(id="headline", title="Headline", blocks=cards),
            Section(id="notes", title="Notes", blocks=[Facts(pairs=[("Note", note) for note in notes])] if notes else []),
            *file_sections(folder),
            Section(id="pictures", title="Where they differ most", blocks=pictures),
            Section(
                id="about",
                title="About",
                blocks=[
                    Facts(pairs=[*details(content), *(("A report of its own", part) for part in parts)]),
                    *(
                        Text(title=f"{path.name}, with how to read it", text=path.read_text(encoding="utf-8"))
                        for path in texts
                    ),
                ],
            ),
        ],
        footer=f"Made by polymask from the files of the folder {folder.name}.",
    )
    write_page(folder / PAGE_NAME, page)
