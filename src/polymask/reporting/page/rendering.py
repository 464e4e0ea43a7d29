"""From blocks to a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymask.reporting.page.blocks import Page
from polymask.utils.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_NAME = "report.html"


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file that needs nothing else: style, script and pictures are inside."""
    sections = [section for section in page.sections if section.blocks]
    write_text(path, render("page.html", page=page, sections=sections))


def render(template: str, **values: Any) -> str:
    """Return a template of `templates/` with its values, every one of them escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    # Late: whoever writes no page need not wait for the library.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
