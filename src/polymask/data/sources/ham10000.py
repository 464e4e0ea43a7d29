"""Reader of the HAM10000 layout: `images/`, `masks/` and one table of classes and lesions.

HAM10000 (Tschandl, Rosendahl, Kittler, Scientific Data 5:180161, 2018) holds 10,015 images of 7,470
lesions, so images of one lesion share a group and stay together in a split.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from polymask.data.images import IMAGE_SUFFIXES, find_files
from polymask.data.records import Record
from polymask.data.tables import nearest_files, read_csv, some
from polymask.data.truth import MaskFile
from polymask.errors import UserError, nearest

log = logging.getLogger(__name__)

TABLE_NAMES = ("metadata.csv", "GroundTruth.csv")
MASK_STEMS = ("{}_segmentation", "{}_Segmentation", "{}")
ID_COLUMNS = ("image_id", "image")
GROUP_COLUMN = "lesion_id"
CLASS_COLUMN = "dx"


class _Row(NamedTuple):
    """One line of the table; `dx` is the class in lower case, "" when unknown."""

    id: str
    group: str
    dx: str
    attributes: dict[str, str]  # all columns but that of the ids


def read_ham10000(
    data_dir: Path, *, classes: Sequence[str], allow_absent: bool = False, skip_missing: bool = False
) -> tuple[list[Record], list[str]]:
    """Read `data_dir/{images,masks,metadata.csv}` without decoding anything.

    The table is the official one (`lesion_id,image_id,dx,…`) or one-hot (`image,MEL,NV,…`, also under
    the name `GroundTruth.csv`). An empty `dx`, or a one-hot row of zeros, is the unknown label -1. Rows
    of a class that is not in `classes` are left out with a logged note.

    Args:
        data_dir: Folder of the data set.
        classes: Names of the classes to use, matched without regard to case; a label is an index into it.
            Empty: all images, of unknown class, for those who learn from the masks alone.
        allow_absent: Whether `classes` may name some that no image is of, as when a run is tested on another
            data set; they are logged.
        skip_missing: Leave out rows whose image is absent instead of stopping.

    Returns:
        One record per image, sorted by id, and `classes`. The group is the lesion, or the image itself where
        the table names no lesion. Attributes are all other columns of the table. There is no truth where
        `masks/` or the image's mask is absent, and `mask_hint` says what was looked for.

    Raises:
        UserError: A folder, the table, a column or an image is missing, the table is unreadable or names
            an image twice, or one of `classes` has no image.
    """
    table = _find_table(data_dir)
    rows = sorted(_read_rows(table, classes))
    images = find_files(table.parent / "images", IMAGE_SUFFIXES)
    found = Counter(row.dx for row in rows if row.id in images)
    rows = _drop_other_classes(rows, classes)
    rows = _drop_missing(rows, images, table, skip_missing=skip_missing)
    _check_classes_found(classes, found, table, allow_absent=allow_absent)
    masks, hint = find_masks([row.id for row in rows], table.parent / "masks")
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    records = [
        Record(
            id=row.id,
            image_path=images[row.id],
            truth=MaskFile(masks[row.id]) if row.id in masks else None,
            label=label_of.get(row.dx, -1),
            group=row.group,
            mask_hint="" if row.id in masks else hint,
            attributes=row.attributes,
        )
        for row in rows
    ]
    return records, list(classes)


def _find_table(data_dir: Path) -> Path:
    layout = f"the HAM10000 layout (images/, masks/, {TABLE_NAMES[0]})"
    if not data_dir.is_dir():
        raise UserError(
            f"data.data_dir={str(data_dir)!r} is not a folder. Put {layout} there, or use data=demo."
        )
    if not (data_dir / "images").is_dir():
        raise UserError(f"{data_dir} has no folder images/. Put {layout} there, or use data=demo.")
    for name in TABLE_NAMES:
        if (data_dir / name).is_file():
            return data_dir / name
    tables = sorted(path.name for path in data_dir.glob("[!.]*.csv"))
    remedy = f"Rename the right one of: {some(tables)}." if tables else f"Put {layout} there."
    raise UserError(f"{data_dir} has no table {' or '.join(TABLE_NAMES)}. {remedy}")


def _read_rows(table: Path, classes: Sequence[str]) -> list[_Row]:
    lines = read_csv(table)
    columns = list(lines[0])
    id_column = next((name for name in ID_COLUMNS if name in columns), None)
    if id_column is None:
        hint = nearest(ID_COLUMNS[0], columns)
        raise UserError(
            f"{table} has no column {' or '.join(ID_COLUMNS)}. Found: {', '.join(columns)}.{hint}"
        )
    if GROUP_COLUMN not in columns:
        log.warning("%s has no column %s: images of one lesion may be split apart.", table, GROUP_COLUMN)
    # Without classes the columns of classes do not matter, whatever they hold.
    one_hot = _one_hot_columns(table, columns, classes) if classes and CLASS_COLUMN not in columns else []
    rows = []
    for line in lines:
        name = line[id_column].strip()
        dx = (
            _hot_column(table, name, line, one_hot) if one_hot else line.get(CLASS_COLUMN, "").strip().lower()
        )
        group = line.get(GROUP_COLUMN, "").strip() or name
        attributes = {column: value.strip() for column, value in line.items() if column != id_column}
        rows.append(_Row(id=name, group=group, dx=dx, attributes=attributes))
    _check_ids(rows, table)
    return rows


def _one_hot_columns(table: Path, columns: Sequence[str], classes: Sequence[str]) -> list[str]:
    # Every other column is a class, also those outside `classes`: a row of such a class is not unlabelled.
    one_hot = [name for name in columns if name not in (*ID_COLUMNS, GROUP_COLUMN)]
    if not {name.lower() for name in classes} & set(one_hot):
        raise UserError(
            f"{table} has neither a column dx nor one column per class ({', '.join(classes)}). "
            f"Found: {', '.join(columns)}.{nearest('dx', columns)}"
        )
    return one_hot


def _hot_column(table: Path, image: str, line: dict[str, str], one_hot: Sequence[str]) -> str:
    hot = []
    for column in one_hot:
        try:
            value = float(line[column])
        except ValueError:
            value = -1.0
        if value not in (0.0, 1.0):
            raise UserError(
                f"{table}: image {image!r} has {line[column]!r} in column {column}; allowed: 0 or 1."
            )
        if value:
            hot.append(column)
    if len(hot) > 1:
        raise UserError(
            f"{table}: image {image!r} has several classes ({', '.join(hot)}). Leave one 1 in its row."
        )
    return hot[0] if hot else ""


def _check_ids(rows: Sequence[_Row], table: Path) -> None:
    counts = Counter(row.id for row in rows)
    if "" in counts:
        raise UserError(f"{table} has {counts['']} rows without an image id. Fill or delete them.")
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"{table} names {len(repeated)} images more than once: {some(repeated)}. Keep one row each."
        )


def _drop_other_classes(rows: Iterable[_Row], classes: Sequence[str]) -> list[_Row]:
    if not classes:
        return list(rows)
    wanted = {"", *(name.lower() for name in classes)}
    kept, dropped = [], Counter[str]()
    for row in rows:
        if row.dx in wanted:
            kept.append(row)
        else:
            dropped[row.dx] += 1
    if dropped:
        note = "Left out %d images of classes that are not in use: %s"
        log.info(note, dropped.total(), _format_counts(dropped))
    return kept


def _drop_missing(
    rows: Sequence[_Row], images: dict[str, Path], table: Path, *, skip_missing: bool
) -> list[_Row]:
    missing = [row.id for row in rows if row.id not in images]
    if not missing:
        return list(rows)
    folder = table.parent / "images"
    where = f"{len(missing)} of {len(rows)} images of {table} are not in {folder}: {some(missing)}"
    if len(missing) == len(rows):
        raise UserError(f"{where}. Put them there as id{', id'.join(IMAGE_SUFFIXES)}.")
    if not skip_missing:
        raise UserError(
            f"{where}. Complete the folder, or set data.reader.skip_missing=true to leave them out."
        )
    log.warning("%s. They are left out.", where)
    return [row for row in rows if row.id in images]


def _check_classes_found(
    classes: Sequence[str], found: Counter[str], table: Path, *, allow_absent: bool
) -> None:
    if len({name.lower() for name in classes}) < len(classes):
        raise UserError(f"data.classes={list(classes)} repeats a class. Case does not count; name each once.")
    names = [name for name in found if name]
    absent = [name for name in classes if not found[name.lower()]]
    if absent and not allow_absent:
        raise UserError(
            f"data.classes names {absent[0]!r}, but no image of {table} has that class."
            f"{nearest(absent[0], names)} Found: {_format_counts(found)}."
        )
    for name in absent:
        log.warning(
            "%s: no image is of the class %s, which is absent: its metrics are undefined.", table, name
        )


def find_masks(ids: Sequence[str], folder: Path) -> tuple[dict[str, Path], str]:
    """Return the mask of each image that has one, and for the others where it was looked for.

    Args:
        ids: Of the images.
        folder: The masks, named as one of `MASK_STEMS`.
    """
    forms = ", ".join(form.format("{id}") for form in MASK_STEMS)
    looked = f"Looked for {forms} with {' '.join(IMAGE_SUFFIXES)} in {folder}"
    if not folder.is_dir():
        return {}, f"{looked}, which is not there."
    files = find_files(folder, IMAGE_SUFFIXES)
    masks = {}
    for id_ in ids:
        stem = next((name for name in (form.format(id_) for form in MASK_STEMS) if name in files), None)
        if stem is not None:
            masks[id_] = files[stem]
    missing = [id_ for id_ in ids if id_ not in masks]
    hint = f"{looked}; {nearest_files(missing, folder)}"
    if missing:
        log.warning("%d of %d images have no mask. %s", len(missing), len(ids), hint)
    return masks, hint


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name or 'unknown'} {count}" for name, count in counts.most_common()) or "none"
