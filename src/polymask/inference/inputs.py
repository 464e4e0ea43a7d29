"""Which files an inference run is about."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from polymask.data.images import IMAGE_SUFFIXES
from polymask.errors import UserError


def find_images(folder: Path, file_list: Path | None = None) -> list[Path]:
    """Return the images to predict, as paths relative to `folder`, sorted.

    Args:
        folder: Searched recursively; hidden files and folders are left out.
        file_list: Text file with one path per line (absolute, or relative to `folder`) to take instead.

    Raises:
        UserError: The folder or the list is missing, or there is no image.
    """
    if not folder.is_dir():
        raise UserError(f"data.data_dir={folder} is not a folder; give the folder that holds the images.")
    if file_list is not None:
        return _listed(folder, file_list)
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = (name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != ".")
        found += [Path(parent, name).relative_to(folder) for name in images]
    if not found:
        raise UserError(f"data.data_dir={folder} holds no image; looked for {', '.join(IMAGE_SUFFIXES)}.")
    return sorted(found)


def _listed(folder: Path, file_list: Path) -> list[Path]:
    if not file_list.is_file():
        raise UserError(
            f"data.file_list={file_list} does not exist; give a text file with one path per line."
        )
    lines = [line.strip() for line in file_list.read_text().splitlines()]
    paths = [Path(line) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(f"data.file_list={file_list} names no file; give one path per line.")
    inside = [path.relative_to(folder) if path.is_relative_to(folder) else path for path in paths]
    return list(dict.fromkeys(inside))


def output_names(files: Sequence[Path]) -> dict[Path, Path]:
    """Return the name of each file's results, without suffix and below the results' folder.

    Two files that differ by their suffix only keep it in the name, so that neither overwrites the other.
    """
    stems = {file: Path(*[part for part in file.parts if part not in ("..", file.anchor)]) for file in files}
    count = Counter(str(path.with_suffix("")) for path in stems.values())
    return {
        file: path.with_suffix("") if count[str(path.with_suffix(""))] == 1 else path
        for file, path in stems.items()
    }
