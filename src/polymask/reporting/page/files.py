"""The sections of the page that show the tables and figures of a results folder, whichever there are."""

from __future__ import annotations

from pathlib import Path

from polymask.reporting.page.blocks import Block, Figure, Figures, Section, Table
from polymask.reporting.page.known import MORE, TOPICS, known, place
from polymask.reporting.page.numbers import readable
from polymask.reporting.page.pictures import figure_picture, file_panel
from polymask.reporting.page.tables import MOST_ROWS, csv_table

ROWS_OF_SAMPLES = ("per_sample.csv", "per_image.csv")
"""Tables with a row for each sample, which the gallery shows in part."""
_MOST_OTHER_ROWS = 20
_MOST_OTHER_FIGURES = 12


def file_sections(folder: Path) -> list[Section]:
    """Return a section per topic of the CSV tables and PNG figures at the top of a folder."""
    names = [path.name for path in folder.iterdir() if path.suffix in (".csv", ".png")]
    by_topic: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for name in sorted(names, key=place):
        if name not in ROWS_OF_SAMPLES:
            by_topic[known(name).topic].append(name)
    return [
        Section(id=topic.lower().replace(" ", "-"), title=topic, blocks=_blocks(folder, own, topic == MORE))
        for topic, own in by_topic.items()
    ]


def folder_of_pictures(folder: Path, *, most: int) -> list[Block]:
    """Return the PNG files of a folder as figures, none when there is no such folder."""
    paths = sorted(folder.glob("**/*.png"))[:most]
    figures = [
        Figure(
            title=path.stem,
            picture=file_panel(path, f"Predictions of the runs for {path.stem}."),
        )
        for path in paths
    ]
    return [Figures(figures=figures)] if figures else []


def _blocks(folder: Path, names: list[str], unknown: bool) -> list[Block]:
    """Return tables first, each where it is short enough whole, then the figures side by side."""
    tables = [_table(folder / name, unknown) for name in names if name.endswith(".csv")]
    pictures = [name for name in names if name.endswith(".png")]
    shown = pictures[:_MOST_OTHER_FIGURES] if unknown else pictures
    figures = [_figure(folder / name) for name in shown]
    blocks: list[Block] = [table for table in tables if table is not None]
    return [*blocks, Figures(figures=figures)] if figures else blocks


def _table(path: Path, unknown: bool) -> Table | None:
    about = known(path.name)
    most_rows = _MOST_OTHER_ROWS if unknown else MOST_ROWS
    title = about.title or readable(path.stem)
    return csv_table(path, title, about.note, most_rows=most_rows, folded=about.folded)


def _figure(path: Path) -> Figure:
    about = known(path.name)
    title = about.title or readable(path.stem)
    return Figure(
        title=title, picture=figure_picture(path, f"{title}. {about.note}".strip()), note=about.note
    )
