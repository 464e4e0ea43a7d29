"""Reader of masks without a table: `images/{id}.*` beside `masks/{id}.*`, without classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polymask.data.images import IMAGE_SUFFIXES, find_files
from polymask.data.records import Record
from polymask.data.sources.ham10000 import find_masks
from polymask.data.truth import MaskFile
from polymask.errors import UserError

LAYOUT = "images/{id}.jpg, .png or .tif, and masks/{id}_segmentation.png or masks/{id}.png"


def read_image_masks(
    data_dir: Path, *, classes: Sequence[str] = (), allow_absent: bool = False
) -> tuple[list[Record], list[str]]:
    """Read `data_dir/images` and `data_dir/masks` without decoding anything.

    Args:
        data_dir: Folder of the data set.
        classes: Must be empty.
        allow_absent: Not used: there are no classes that could be absent.

    Returns:
        One record per image, sorted by id, of unknown class (-1) and its own group, and no classes.

    Raises:
        UserError: There are no images, or `classes` names any.
    """
    if classes:
        raise UserError(
            f"data.classes={list(classes)}, but plain masks have no classes; give data.classes=[]."
        )
    folder = data_dir / "images"
    images = find_files(folder, IMAGE_SUFFIXES) if folder.is_dir() else {}
    if not images:
        raise UserError(f"{folder} {'holds no images' if folder.is_dir() else 'is not there'}: {LAYOUT}.")
    masks, hint = find_masks(list(images), data_dir / "masks")
    records = [
        Record(
            id=id_,
            image_path=images[id_],
            truth=MaskFile(masks[id_]) if id_ in masks else None,
            label=-1,
            group=id_,
            mask_hint="" if id_ in masks else hint,
        )
        for id_ in sorted(images)
    ]
    return records, []
