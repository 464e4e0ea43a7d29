"""Which cases an inference run is about, and the names of their results."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from polymask.errors import UserError
from polymask.families.base import Application
from polymask.utils.names import check_file_names


def find_cases(application: Application, folder: Path, file_list: Path | None = None) -> list[Path]:
    """Return the cases to predict, as paths relative to `folder` where they lie in it.

    Args:
        application: Knows what a case is.
        folder: Where it looks for them.
        file_list: Text file to take instead, in its order: one path per line, absolute or relative to
            `folder`; empty lines and those that begin with `#` are left out.

    Raises:
        UserError: The folder or the list is missing, there is no case, or a name is not UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"data.data_dir={folder} is not a folder; give the folder that holds the images.")
    return application.find(folder) if file_list is None else _listed(folder, file_list)


def _listed(folder: Path, file_list: Path) -> list[Path]:
    if not file_list.is_file():
        raise UserError(
            f"data.file_list={file_list} does not exist; give a text file with one path per line."
        )
    text = file_list.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [line.strip() for line in text.splitlines()]
    # Without "..", so that each file has one name and is taken once.
    top = os.path.normpath(folder)
    paths = [Path(os.path.normpath(Path(top, line))) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(f"data.file_list={file_list} names no file; give one path per line.")
    inside = [path.relative_to(top) if path.is_relative_to(top) else path for path in paths]
    check_file_names(map(str, inside))
    return list(dict.fromkeys(inside))


def output_names(files: Sequence[Path]) -> dict[Path, Path]:
    """Return the name of each file's results, without suffix and below the results' folder.

    Files that differ by their suffix only keep it in the name, so that none overwrites another.

    Args:
        files: Paths as `find_cases` returns them.

    Raises:
        UserError: A file of the folder and one outside of it would have results of the same name.
    """
    whole = {file: file.relative_to(file.anchor) for file in files}
    stems = Counter(path.with_suffix("") for path in whole.values())
    taken = set(whole.values())
    names = {}
    for file, path in whole.items():
        stem = path.with_suffix("")
        names[file] = stem if stems[stem] == 1 and stem not in taken else path
    if len(set(names.values())) < len(names):
        clashing = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise UserError(
            f"two files would have the results {clashing}, one inside data.data_dir and one outside; "
            "give a data.data_dir that holds both."
        )
    return names
