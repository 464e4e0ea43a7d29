"""Writer of plain masks in the HAM10000 layout: `images/`, `masks/` and `metadata.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from polymask.data.images import write_image
from polymask.data.records import Record
from polymask.data.sources.ham10000 import CLASS_COLUMN, GROUP_COLUMN, ID_COLUMNS, MASK_STEMS, TABLE_NAMES
from polymask.data.targets.base import CROWDS, Target
from polymask.structures.layers import Layers
from polymask.utils.files import write_text
from polymask.utils.tables import csv_text

_MERGED = "objects that touch or overlap others, or lie in pieces: {} (a plain mask does not tell them apart)"
_MIXED = "objects in images of several classes: {} (the layout has one class per image)"


class MaskTarget(Target):
    """Writes the union of the objects of each image, 0 and 255, see `Target`.

    Several objects of an image are kept as long as each is one connected piece of the mask, as
    `components=true` reads them. The class of an image is that of its objects.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self._rows: list[tuple[str, str, str]] = []

    def add(self, record: Record, objects: Layers) -> None:
        """Take the objects of one image, see `Target.add`."""
        self.lost[CROWDS] += int(objects.crowd.sum())
        labels = objects.labels[~objects.crowd]
        union = objects.union_mask() == 1
        if len(labels) > 1 and not _are_pieces(objects, union):
            self.lost[_MERGED] += len(labels)
        kinds = sorted(set(labels.tolist()))
        if len(kinds) > 1:
            self.lost[_MIXED] += len(labels)
        name = MASK_STEMS[0].format(record.id)
        write_image(self.folder / "masks" / f"{name}.png", union.astype(np.uint8) * 255)
        class_name = self.class_names[kinds[0]] if len(kinds) == 1 else ""
        self._rows.append((record.group, record.id, class_name))

    def finish(self) -> None:
        """Write the table."""
        columns = (GROUP_COLUMN, ID_COLUMNS[0], CLASS_COLUMN)
        write_text(self.folder / TABLE_NAMES[0], csv_text(columns, self._rows))


def _are_pieces(objects: Layers, union: np.ndarray) -> bool:
    """Return whether the objects, crowd regions left out, are the 8-connected pieces of their union."""
    num_pieces, pieces = cv2.connectedComponents(union.astype(np.uint8), connectivity=8)
    masks = (mask for mask, crowd in zip(objects.masks(), objects.crowd, strict=True) if not crowd)
    own = [(set(np.unique(pieces[mask]).tolist()), int(mask.sum())) for mask in masks]
    is_whole = num_pieces - 1 == len(own) and all(len(numbers) == 1 for numbers, _ in own)
    return is_whole and sum(area for _, area in own) == int(union.sum())
