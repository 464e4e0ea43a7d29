"""Reader of volumes in a pair of folders: `images/{id}.tif` beside `labels/{id}.tif`, a page per slice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from polymask.data.images import find_files
from polymask.data.records import Record
from polymask.data.sources.ctc import one_class
from polymask.data.splits.groups import read_groups
from polymask.data.stacks import STACK_SUFFIXES
from polymask.data.tables import nearest_files, some
from polymask.data.volume_truth import VolumeTruth
from polymask.errors import UserError
from polymask.utils.names import check_inside

log = logging.getLogger(__name__)

_LAYOUT = "images/{id}.tif and labels/{id}.tif"


def read_volume_folders(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    group_pattern: str | None = None,
    group_table: str | None = None,
    group_column: str | None = None,
) -> tuple[list[Record], list[str]]:
    """Read `data_dir/images` and `data_dir/labels`; nothing is decoded.

    Args:
        data_dir: Folder of the data set.
        classes: Empty, or one name for the only class instead of `cell`.
        allow_absent: Of no effect: there is one class, which every data set has.
        group_pattern: Regular expression whose first group (or whole match) in the file name is the
            group, so that the volumes of one animal stay together.
        group_table: CSV file, relative to `data_dir`, with the columns `id` and `group_column`.
        group_column: Column of the group in `group_table`, None for `group`.

    Returns:
        One record per volume, sorted by id, and the name of the class.

    Raises:
        UserError: A folder or label volume is missing, several classes are asked for, or the groups' rule
            does not fit.
    """
    names = one_class(classes)
    for folder in (data_dir / "images", data_dir / "labels"):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Volumes are read from {_LAYOUT}.")
    volumes, labels = (find_files(data_dir / part, STACK_SUFFIXES) for part in ("images", "labels"))
    missing = sorted(set(volumes) - set(labels))
    if missing or not volumes:
        raise UserError(
            f"{len(missing)} of {len(volumes)} volumes of {data_dir} have no labels: "
            f"{some(missing) or 'there are no volumes'}; {nearest_files(missing, data_dir / 'labels')} "
            f"Expected are {_LAYOUT}."
        )
    unused = sorted(set(labels) - set(volumes))
    if unused:
        log.warning("%d label volumes in %s have no volume: %s", len(unused), data_dir, some(unused))
    check_inside(volumes, str(data_dir))
    groups = read_groups(
        {id_: path.name for id_, path in volumes.items()},
        data_dir,
        pattern=group_pattern,
        table=group_table,
        column=group_column,
    )
    return [
        Record(id=id_, image_path=path, truth=VolumeTruth(path=labels[id_]), label=0, group=groups[id_])
        for id_, path in sorted(volumes.items())
    ], names
