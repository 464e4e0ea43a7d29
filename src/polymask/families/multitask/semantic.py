"""Images with objects read as images with one mask: the union of the objects, or their classes.

So the networks for semantic masks learn from the very data sets, splits and folds of Mask R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from polymask.data.object_checks import check_files, check_subsets, describe
from polymask.data.object_record import InstanceRecord
from polymask.data.records import Record
from polymask.data.sources import coco, label_maps
from polymask.data.splits.split import SUBSETS
from polymask.families.multitask.data import ImageMaskData, RecordReader


class ObjectMaskData(ImageMaskData):
    """A data set of images with objects, as one mask each.

    Args:
        reader: Finds the samples, which know their objects: `read_coco` or `read_label_maps`.
        crowd: Handed to the reader when given: what crowd regions are, see `coco.read_records`.
        **options: See `ImageMaskData`.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    def __init__(self, *, reader: RecordReader, crowd: str | None = None, **options: Any) -> None:
        chosen: dict[str, Any] = {} if crowd is None else {"crowd": crowd}
        super().__init__(reader=partial(reader, **chosen), **options)
        check_files(self._objects)

    def description(self) -> str:
        """Return one line: how many objects there are, and what their masks are."""
        return f"{describe(self._objects)}; {super().description()}"

    def check_masks(self, subsets: Sequence[str] = SUBSETS) -> None:
        """Stop when no image of a subset holds an object, or the masks of one are all full.

        Raises:
            UserError: There is such a subset.
        """
        check_subsets(self._objects, {name: self.split.subsets[name] for name in subsets}, self.data_dir)
        super().check_masks(subsets)

    @property
    def _objects(self) -> list[InstanceRecord]:
        return cast(list[InstanceRecord], self.records)


def read_coco(data_dir: str | Path, classes: Sequence[str], **options: Any) -> list[Record]:
    """Read a COCO data set, see `coco.read_records`."""
    return list(coco.read_records(data_dir, classes, **options)[0])


def read_label_maps(data_dir: str | Path, classes: Sequence[str], **options: Any) -> list[Record]:
    """Read a data set of label maps, see `label_maps.read_records`; the union needs no single objects."""
    return list(label_maps.read_records(data_dir, classes, split="values", **options)[0])
