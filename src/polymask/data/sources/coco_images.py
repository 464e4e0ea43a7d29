"""The images of a COCO file: their names, their files and their groups."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from polymask.data.sources.coco_file import CocoFile, Entry
from polymask.data.splits.groups import fill_groups
from polymask.data.tables import some
from polymask.errors import UserError, nearest
from polymask.utils.text import same_name


def file_name(entry: Entry) -> str:
    """Return an image's path as the annotation file gives it, with slashes."""
    return str(entry["file_name"]).replace("\\", "/")


def sample_ids(files: Sequence[CocoFile], root: Path) -> list[dict[int | str, str]]:
    """Return, per file, an id for each image number: the image's name without suffix.

    Where the names alone repeat, the image's folders stand before it; of several annotation files also the
    folders of the file below `root`.

    Raises:
        UserError: Two images have one id.
    """
    names = [
        {entry["id"]: PurePosixPath(same_name(file_name(entry))).with_suffix("") for entry in file.images}
        for file in files
    ]
    ids = [{key: path.name for key, path in paths.items()} for paths in names]
    if _repeated(ids):
        folders = [_folders(file, root) if len(files) > 1 else () for file in files]
        ids = [
            {key: "_".join((*above, *_parts(path))) for key, path in paths.items()}
            for paths, above in zip(names, folders, strict=True)
        ]
    if repeated := _repeated(ids):
        where = ", ".join(str(file.path) for file in files)
        raise UserError(
            f"{where} has more than one image named {some(repeated)}. Rename or remove all but one."
        )
    return ids


def _repeated(ids: Sequence[dict[int | str, str]]) -> list[str]:
    counts = Counter(name for own in ids for name in own.values())
    return [name for name, count in counts.items() if count > 1]


def _parts(path: PurePosixPath) -> tuple[str, ...]:
    return tuple(part for part in path.parts if part != "/")


def _folders(file: CocoFile, root: Path) -> tuple[str, ...]:
    folder = file.path.parent
    return folder.relative_to(root).parts if folder.is_relative_to(root) else folder.parts[-1:]


def find_images(file: CocoFile, folders: Sequence[Path]) -> dict[int | str, Path]:
    """Return the file of each image number, from the first of `folders` that has it.

    Raises:
        UserError: The annotation file names no image, or one that is in none of the folders.
    """
    # One listing per folder, because a stat per file is slow on network disks.
    # By the form in which names are compared: a folder of macOS spells them otherwise than the JSON file.
    listing = cache(
        lambda folder: {same_name(name): name for name in os.listdir(folder)} if folder.is_dir() else {}
    )
    found: dict[int | str, Path] = {}
    for entry in file.images:
        for candidate in (folder / file_name(entry) for folder in folders):
            name = listing(candidate.parent).get(same_name(candidate.name))
            if name is not None:
                found[entry["id"]] = candidate.with_name(name)
                break
    missing = [file_name(entry) for entry in file.images if entry["id"] not in found]
    if missing or not found:
        looked = ", ".join(dict.fromkeys(str(folder) for folder in folders))
        raise UserError(
            f"{len(missing)} of {len(file.images)} images of {file.path} are not there: "
            f"{some(missing) or 'it names none'}. Put them into one of: {looked}."
        )
    return found


def groups_by_field(file: CocoFile, ids: dict[int | str, str], field: str) -> dict[str, str]:
    """Return the group of each id: a field of its entry; a dot leads into a field of a field.

    Raises:
        UserError: An image lacks the field.
    """

    def value(entry: Entry) -> str | None:
        found: object = entry
        for name in field.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return None if found is None else str(found)

    groups = {ids[entry["id"]]: value(entry) for entry in file.images}
    if all(group is None for group in groups.values()):
        fields = sorted({name for entry in file.images for name in entry})
        raise UserError(
            f"data.reader.group_column={field!r} is no field of the images of {file.path}."
            f"{nearest(field, fields)} Found: {', '.join(fields)}."
        )
    return fill_groups(groups, f"field {field} of {file.path}")
