"""Reader of images alone: every image below a folder, of which nothing else is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polymask.data.images import images_below
from polymask.data.records import Record
from polymask.data.splits.groups import read_groups
from polymask.errors import UserError
from polymask.utils.names import check_inside
from polymask.utils.text import same_name


def read_images(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    group_pattern: str | None = None,
    group_table: str | None = None,
    group_column: str | None = None,
) -> tuple[list[Record], list[str]]:
    """Read all images below `data_dir`, in folders of any depth; hidden files and folders are left out.

    Args:
        data_dir: The folder.
        classes: Must be empty.
        allow_absent: Not used: there are no classes that could be absent.
        group_pattern: Regular expression whose first group, or whole match, in the relative path
            (`site_a/x7.jpg`) is the group: `site_.` keeps the images of one site together.
        group_table: CSV file, relative to `data_dir`, with the group of each image.
        group_column: Its column, None for `group`; the images are in its column `id` (the relative path, with
            or without suffix).

    Returns:
        One record per image, sorted by id, of unknown class (-1), and no classes. The id is the relative path
        without suffix.

    Raises:
        UserError: There is no folder or no image, two images have one id, a rule for groups does not fit, or
            `classes` names any.
    """
    if classes:
        raise UserError(
            f"data.classes={list(classes)}, but nothing tells the classes of these images; leave it out."
        )
    if not data_dir.is_dir():
        raise UserError(f"data.data_dir={str(data_dir)!r} is not a folder. Name a folder with images.")
    paths: dict[str, Path] = {}
    for path in images_below(data_dir):
        id_ = same_name(path.with_suffix("").as_posix())
        if id_ in paths:
            raise UserError(
                f"{data_dir} holds two images {id_!r}: {paths[id_].name} and {path.name}. Keep one."
            )
        paths[id_] = path
    check_inside(paths, str(data_dir))
    groups = read_groups(
        {id_: path.as_posix() for id_, path in paths.items()},
        data_dir,
        pattern=group_pattern,
        table=group_table,
        column=group_column,
    )
    return [
        Record(id=id_, image_path=data_dir / path, label=-1, group=groups[id_])
        for id_, path in sorted(paths.items())
    ], []
