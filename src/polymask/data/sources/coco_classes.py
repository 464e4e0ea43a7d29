"""The classes of a COCO data set: categories of its files, brought together by their names."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from polymask.data.sources.coco_file import CocoFile, Entry
from polymask.data.tables import some
from polymask.errors import UserError, nearest

log = logging.getLogger(__name__)


class Categories(NamedTuple):
    """The categories of one file, and the ids of those that have objects there."""

    path: Path
    entries: list[Entry]
    used: set[int]

    def named(self, name: str, *, used: bool = False) -> list[int]:
        """Return the ids of the categories of one name, or of those that have objects."""
        ids = [entry["id"] for entry in self.entries if entry["name"] == name]
        return [id_ for id_ in ids if not used or id_ in self.used]


def categories_of(file: CocoFile, used: set[int]) -> Categories:
    """Return the categories of a file in the order of their ids."""
    return Categories(file.path, sorted(file.categories, key=lambda entry: entry["id"]), used)


def choose_classes(
    files: Sequence[Categories], wanted: Sequence[str], *, allow_absent: bool = False
) -> list[str]:
    """Return the names of the classes: those that are wanted, else all that have objects in any file.

    Args:
        files: The categories of each file.
        wanted: Names in the order of their labels; empty for all, in the order of the files and ids.
        allow_absent: Whether the files may lack a category of a wanted name, which is then only logged.

    Raises:
        UserError: A name is repeated or unknown, or there are no objects.
    """
    where = some([str(file.path) for file in files])
    in_use = [entry["name"] for file in files for entry in file.entries if entry["id"] in file.used]
    names = [str(name) for name in wanted] or list(dict.fromkeys(in_use))
    if len(set(names)) < len(names):
        raise UserError(f"data.classes={names} repeats a class. Name each once.")
    if not names:
        raise UserError(f"{where} has no object with a mask. Annotate some, or name data.classes.")
    known = list(dict.fromkeys(entry["name"] for file in files for entry in file.entries))
    for name in names:
        if name not in known and not allow_absent:
            raise UserError(
                f"data.classes names {name!r}, but {where} has no category of that name."
                f"{nearest(name, known)} Found: {', '.join(known)}."
            )
        if name not in in_use:
            log.warning(
                "%s: no object is of the class %s, which is absent: its metrics are undefined.", where, name
            )
    for file in files:
        _tell_of_categories(file, names)
    return names


def labels_by_id(file: Categories, names: Sequence[str]) -> dict[int, int]:
    """Return the label of each category id of a file whose name is one of the classes."""
    return {entry["id"]: names.index(entry["name"]) for entry in file.entries if entry["name"] in names}


def category_ids(file: Categories, names: Sequence[str]) -> tuple[int, ...]:
    """Return one category id of a file per class: one with objects where several have the name.

    A class that the file lacks gets an id that no other one has.
    """
    ids: dict[int, list[int]] = defaultdict(list)
    for id_, label in labels_by_id(file, names).items():
        ids[label].append(id_)
    beyond = max((entry["id"] for entry in file.entries), default=0) + 1
    return tuple(
        min(ids[label], key=lambda id_: (id_ not in file.used, id_), default=beyond + label)
        for label in range(len(names))
    )


def _tell_of_categories(file: Categories, names: Sequence[str]) -> None:
    for name in names:
        if (count := len(file.named(name, used=True))) > 1:
            log.warning("%s: %d categories are named %s; they are one class.", file.path, count, name)
    unused = [f"{entry['name']} ({entry['id']})" for entry in file.entries if entry["id"] not in file.used]
    if unused:
        log.info("%s: categories without objects: %s.", file.path, some(unused))
