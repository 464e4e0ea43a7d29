"""Which annotation files make up a COCO data set: one for all images, or one per subset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from polymask.data.sources.coco_file import FILE_NAMES, find_annotations
from polymask.data.splits.split import SUBSET_WORDS, SUBSETS
from polymask.errors import UserError, choose

log = logging.getLogger(__name__)

_EXAMPLE = "'data.reader.files={train: train.json, val: val.json}'"


class Source(NamedTuple):
    """One annotation file, and the subset that its images are for; None when the split places them."""

    path: Path
    subset: str | None


def find_sources(data_dir: Path, annotations: str | None, files: Mapping[str, str] | None) -> list[Source]:
    """Return the annotation files of a data set.

    Args:
        data_dir: Folder of the data set.
        annotations: The only file, relative to `data_dir`.
        files: Or a file per subset (train, val or valid, test), relative to `data_dir`. Without val the
            images of train are free, so that train and val are drawn from them.

    Returns:
        The files that were given, else the only one there, else those of the folders `train/` and `valid/`
        (or `val/`), and `test/` if it is there, as Roboflow exports them.

    Raises:
        UserError: There is no file or more than one to choose from, or a subset is unknown or named twice.
    """
    if files is not None:
        if annotations is not None:
            raise UserError("data.reader.annotations and data.reader.files are both given; keep one.")
        return _free_without_val(_given(data_dir, files))
    if annotations is None and not any((data_dir / name).is_file() for name in FILE_NAMES):
        found = _in_folders(data_dir)
        if {"train", "val"} <= set(found):
            listed = ", ".join(f"{subset} from {path.parent.name}/" for subset, path in found.items())
            log.info("%s has an annotation file for each subset: %s", data_dir, listed)
            return [Source(path, subset) for subset, path in found.items()]
    return [Source(find_annotations(data_dir, annotations), None)]


def _given(data_dir: Path, files: Mapping[str, str]) -> dict[str, Path]:
    if not isinstance(files, Mapping) or not files:
        raise UserError(
            f"data.reader.files={files!r} is not valid; name a file for each subset, e.g. {_EXAMPLE}."
        )
    found: dict[str, Path] = {}
    for word, name in files.items():
        subset = SUBSET_WORDS[choose("data.reader.files: subset", str(word).lower(), SUBSET_WORDS)]
        if subset in found:
            raise UserError(f"data.reader.files names two files for {subset}; name one.")
        found[subset] = data_dir / str(name)
        if not found[subset].is_file():
            raise UserError(
                f"data.reader.files: there is no file {found[subset]} for {subset}; name a COCO file below "
                "data.data_dir."
            )
    if "train" not in found:
        raise UserError(f"data.reader.files has no file for train; name one, e.g. {_EXAMPLE}.")
    return found


def _free_without_val(found: Mapping[str, Path]) -> list[Source]:
    """Return the sources in the order of the subsets; of train alone, val is drawn."""
    free = {"train"} if "val" not in found else set()
    return [Source(found[name], None if name in free else name) for name in SUBSETS if name in found]


def _in_folders(data_dir: Path) -> dict[str, Path]:
    """Return the annotation file in the folder of each subset that has one."""
    folders = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
    return {
        subset: path
        for subset, names in folders.items()
        for path in [data_dir / name / file for name in names for file in FILE_NAMES]
        if path.is_file()
    }
