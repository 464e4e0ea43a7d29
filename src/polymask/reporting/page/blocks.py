"""What a page is made of. Each block names the template that shows it; values are text, not yet HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An interval on an axis, in percent of the axis' length.

    Attributes:
        start: Where the interval begins.
        length: Its length.
        mark: Where the value itself lies.
        zero: Where the axis has its zero, None where that is its left end.
        ends: What the ends of the axis mean.
    """

    start: float
    length: float
    mark: float
    zero: float | None
    ends: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A text, or a number with its interval.

    Attributes:
        text: What is shown.
        key: What it is called in files, "" for the same.
        exact: The number with all of its digits, "" for a text.
        low: The lower end of the interval, None without one.
        high: Its upper end.
        bar: The interval as a drawing.
    """

    text: str
    key: str = ""
    exact: str = ""
    low: Cell | None = None
    high: Cell | None = None
    bar: Bar | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """A number to be seen first: its name for people, its key in files, the number, and a word on it."""

    name: str
    key: str
    cell: Cell
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cards:
    """The numbers that a person wants to see first."""

    template: ClassVar[str] = "cards.html"
    cards: Sequence[Card]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first cell of each row is its heading.

    Attributes:
        caption: Stands above it.
        columns: Names of the columns.
        numeric: Of each column, whether it holds numbers.
        rows: The cells.
        note: Stands below it.
        folded: Whether it is shown only when asked for.
    """

    template: ClassVar[str] = "table.html"
    caption: str
    columns: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside the page.

    Attributes:
        uri: The picture itself as a data URI.
        width: Its width in pixels.
        height: Its height in pixels.
        alt: What it shows, for those who do not see it.
    """

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture below its title, with a sentence on how to read it."""

    title: str
    picture: Picture
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures beside each other where there is room."""

    template: ClassVar[str] = "figures.html"
    figures: Sequence[Figure]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sample with its picture.

    Attributes:
        id: Its id.
        picture: The picture.
        facts: Names and values to stand below it.
        kinds: Words `{class}:{kind}`, such as `all:worst` or `3:median`: as what it is shown with that class.
        label: What it is called while no filter works.
    """

    id: str
    picture: Picture
    facts: Sequence[tuple[str, str]]
    kinds: Sequence[str]
    label: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The best, median and worst samples, of all and of each class.

    Attributes:
        cases: The samples, the worst first.
        classes: Key and name of each class that can be chosen.
        score: What they are ordered by.
    """

    template: ClassVar[str] = "gallery.html"
    cases: Sequence[Case]
    classes: Sequence[tuple[str, str]]
    score: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with values."""

    template: ClassVar[str] = "facts.html"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text with its own line breaks, shown when asked for."""

    template: ClassVar[str] = "text.html"
    title: str
    text: str


Block = Cards | Table | Figures | Gallery | Facts | Text


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page: its anchor, its heading, a sentence, and what it holds."""

    id: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        kind: What it reports on, such as `Test report`.
        title: What it is about, such as the name of the run.
        lead: The one sentence to begin with.
        sections: Its parts; those without blocks are left out.
        footer: What stands at the end.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[Section]
    footer: str
