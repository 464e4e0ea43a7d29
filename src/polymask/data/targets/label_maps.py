"""Writer of label maps: `images/` and `labels/{id}.png`, one number per object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polymask.data.images import write_image
from polymask.data.records import Record
from polymask.data.targets.base import CROWDS, Target
from polymask.structures.layers import Layers
from polymask.utils.files import write_text
from polymask.utils.tables import csv_text

_CLASSES = "objects whose class is lost: {} (label maps have one class; to=coco keeps them)"
_OVERLAPS = "objects that others hide: {} (overlaps=folders writes these images mask by mask)"

OVERLAPS = ("folders", "hide")
"""An image whose objects overlap becomes a folder of one mask per object, or a map in which smaller ones hide
larger ones."""


class LabelMapTarget(Target):
    """Writes a 16-bit PNG per image, its objects numbered from 1 in their order, see `Target`.

    Groups, where images have any, are in `groups.csv`, which `data.reader.group_table` reads.

    Args:
        folder: Where to write.
        class_names: Names of the classes.
        overlaps: One of `OVERLAPS`.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], *, overlaps: str) -> None:
        super().__init__(folder, class_names)
        self._use_folders = overlaps == "folders"
        self._groups: list[tuple[str, str]] = []
        (folder / "labels").mkdir()

    def add(self, record: Record, objects: Layers) -> None:
        """Take the objects of one image, see `Target.add`."""
        if len(self.class_names) > 1:
            self.lost[_CLASSES] += int((~objects.crowd).sum())
        self.lost[CROWDS] += int(objects.crowd.sum())
        label_map, num_hidden = _paint(objects)
        labels = self.folder / "labels"
        if num_hidden and self._use_folders:
            for number, mask in enumerate(objects.masks(), start=1):
                if not objects.crowd[number - 1]:
                    path = labels / record.id / f"{number:05d}.png"
                    write_image(path, mask.astype(np.uint8) * 255)
        else:
            self.lost[_OVERLAPS] += num_hidden
            write_image(labels / f"{record.id}.png", label_map)
        self._groups.append((record.id, record.group))

    def finish(self) -> None:
        """Write the table of groups where there are any."""
        if any(id_ != group for id_, group in self._groups):
            write_text(self.folder / "groups.csv", csv_text(("id", "group"), self._groups))


def _paint(objects: Layers) -> tuple[np.ndarray, int]:
    """Return the (H, W) uint16 label map, smaller objects before larger ones, and how many others hide.

    Objects are numbered from 1 in their order, crowd regions left out.
    """
    areas = np.array([int(mask.sum()) for mask in objects.masks()], np.int64)
    numbers = np.where(objects.crowd, 0, np.cumsum(~objects.crowd)).astype(np.uint16)
    label_map = np.zeros(objects.layers.shape[:2], np.uint16)
    for index in np.argsort(-areas, kind="stable"):
        if not objects.crowd[index]:
            mask = objects.layers[..., objects.layer[index]] == objects.number[index]
            label_map[mask] = numbers[index]
    seen = np.bincount(label_map.ravel(), minlength=len(areas) + 1)
    return label_map, int((seen[numbers] < areas)[~objects.crowd].sum())
