"""Reading any of the layouts with objects, found by what lies in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.data.inspection import FileMemory
from polymask.data.mask_checks import MaskedImages
from polymask.data.records import Reader, Record
from polymask.data.sources.coco import read_coco
from polymask.data.sources.coco_file import FILE_NAMES
from polymask.data.sources.ham10000 import TABLE_NAMES, read_ham10000
from polymask.data.sources.image_masks import LAYOUT, read_image_masks
from polymask.data.sources.isic2016 import FOLDERS, read_isic2016
from polymask.data.sources.label_maps import read_label_maps
from polymask.data.sources.mask_objects import read_mask_objects
from polymask.errors import UserError, choose

_Found = tuple[list[Record], list[str]]


def _is_coco(source: Path) -> bool:
    folders = (source, *(source / name for name in ("train", "valid", "val")))
    files = (folder / name for folder in folders for name in FILE_NAMES)
    return (
        source.suffix == ".json" or any(f.is_file() for f in files) or any(source.glob("annotations/*.json"))
    )


def _is_isic2016(source: Path) -> bool:
    return (source / FOLDERS["Training"][0]).is_dir()


FORMATS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "masks": (LAYOUT, lambda source: (source / "masks").is_dir() or _is_isic2016(source)),
    "label_maps": ("images/ and labels/", lambda source: (source / "labels").is_dir()),
    "coco": ("annotations.json, and images beside it or in images/", _is_coco),
}
"""Format -> what it consists of, and what tells that a folder (of COCO also a file) has it."""


def find_format(source: Path, given: str | None) -> str:
    """Return the format of a data set.

    Args:
        source: Its folder, or a COCO file.
        given: What the user says; None to find out.

    Raises:
        UserError: There is nothing, nothing that is known, or several formats.
    """
    if not source.exists():
        raise UserError(
            f"source={str(source)!r} is not there. Give the folder of a data set, or a COCO file."
        )
    if given is not None:
        return choose("from", given, FORMATS)
    found = [name for name, (_, is_there) in FORMATS.items() if is_there(source)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{source} holds {' and '.join(found)}; choose one, e.g. from={found[0]}.")
    known = "; ".join(f"{name} ({layout})" for name, (layout, _) in FORMATS.items())
    raise UserError(f"{source} is no data set of a known format. Known are {known}.")


def read_objects(
    source: Path,
    format_name: str,
    *,
    classes: Sequence[str] = (),
    by_diagnosis: bool = False,
    components: bool | None = None,
    crowd: str = "ignore",
    mask_values: object = "auto",
    groups: Mapping[str, str | None] | None = None,
) -> _Found:
    """Read a data set of one of `FORMATS`.

    Args:
        source: Its folder, or a COCO file.
        format_name: One of `FORMATS`.
        classes: Names of the classes, see the readers.
        by_diagnosis: Of masks, see `read_mask_objects`.
        components: Whether each connected piece of a mask, or of a number of a label map, is an object; None
            for what the layout usually is: a whole mask, all pixels of a number.
        crowd: Of COCO, see `read_coco`.
        mask_values: Of masks, see `mask_values.decide`.
        groups: `group_pattern`, `group_table` and `group_column` of COCO and label maps, see `read_coco`.

    Raises:
        UserError: The files are not as the layout says, or an option is for another one.
    """
    if by_diagnosis and format_name != "masks":
        raise UserError(
            f"by_diagnosis=true is for masks, but {source} is read as {format_name}; leave it out."
        )
    if components is not None and format_name == "coco":
        raise UserError(f"components={components} is for masks and label maps, not for COCO; leave it out.")
    given: dict[str, Any] = {key: value for key, value in (groups or {}).items() if value is not None}
    if format_name == "coco":
        folder, name = (source.parent, source.name) if source.is_file() else (source, None)
        return read_coco(folder, classes=classes, annotations=name, crowd=crowd, **given)
    if format_name == "label_maps":
        split = {None: "auto", True: "components", False: "values"}[components]
        return read_label_maps(source, classes=classes, split=split, **given)
    if given:
        key, value = given.popitem()
        raise UserError(f"{key}={value!r} is for coco and label_maps; of masks their table names the groups.")
    reader = _mask_reader(source)
    records, names = read_mask_objects(
        source, masks=reader, classes=classes, by_diagnosis=by_diagnosis, components=bool(components)
    )
    files = MaskedImages(
        records,
        where=source,
        memory=FileMemory(None, source),
        mask_values=mask_values,
        mask_orientation="same",
    )
    if files.doubt is not None:
        raise files.doubt
    return files.records, names


def _mask_reader(source: Path) -> Reader:
    if _is_isic2016(source):
        return read_isic2016
    has_table = any((source / name).is_file() for name in TABLE_NAMES)
    return read_ham10000 if has_table else read_image_masks
