"""What README and the pages of docs/ name is there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [path.as_posix() for name in ("src", "config", "tests") for path in (ROOT / name).rglob("*.*")]
FILE = re.compile(r"`((?:[\w.]+/)*[\w.]+\.(?:py|yaml))`")
DOTTED = re.compile(r"\bpolymask(?:\.\w+)+")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
READERS_OWN = ("pointer/", "conf/")
"""Files that a page tells its reader to write."""


def page_id(page: Path) -> str:
    return page.name


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = [name for name in FILE.findall(without_blocks(page)) if not name.startswith(READERS_OWN)]
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in FILES)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_dotted_names_on_a_page_are_there(page: Path) -> None:
    for name in set(DOTTED.findall(page.read_text(encoding="utf-8"))):
        assert exists(name), name


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return bool(module) and exists(module) and hasattr(import_module(module), attribute)
    return True


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for path, heading in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not heading or heading in headings(target), f"{path}#{heading}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}
