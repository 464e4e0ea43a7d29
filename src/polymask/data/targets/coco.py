"""Writer of COCO annotations: `images/` and `annotations.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.records import Record
from polymask.data.targets.base import Target
from polymask.structures import rle
from polymask.structures.layers import Layers
from polymask.structures.outlines import outlines
from polymask.utils.files import write_text

SEGMENTATIONS = ("rle", "polygons")
"""How masks are written: as run lengths, which are exact, or as polygons, which have no holes."""

_HOLES = "objects with holes, which polygons would fill: {} (segmentation=rle keeps them)"


class CocoTarget(Target):
    """Writes all objects to one JSON file, see `Target`.

    Image and category numbers are those of the annotation file that was read, where there is one; otherwise
    they count from 1. Where images belong to groups, their entries have the field `group`. Crowd regions are
    always run lengths, as COCO has them.

    Args:
        folder: Where to write.
        class_names: Names of the classes.
        segmentation: `rle` or `polygons`.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], *, segmentation: str) -> None:
        super().__init__(folder, class_names)
        self._use_polygons = segmentation == "polygons"
        self._records: list[tuple[Record, tuple[int, int]]] = []
        self._annotations: list[tuple[int, dict[str, Any]]] = []

    def add(self, record: Record, objects: Layers) -> None:
        """Take the objects of one image, see `Target.add`."""
        for mask, label, crowd in zip(objects.masks(), objects.labels, objects.crowd, strict=True):
            found = rle.encode(mask)
            x0, y0, x1, y1 = rle.box(found)
            annotation = {
                "iscrowd": int(crowd),
                "area": rle.area(found),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": self._segmentation(mask, found, is_crowd=bool(crowd)),
            }
            self._annotations.append((len(self._records), {"label": int(label), **annotation}))
        height, width = objects.layers.shape[:2]
        self._records.append((record, (height, width)))

    def finish(self) -> None:
        """Write the annotation file."""
        numbers, categories = self._image_numbers(), self._category_numbers()
        has_groups = any(record.group != record.id for record, _ in self._records)
        images = []
        for (record, (height, width)), number in zip(self._records, numbers, strict=True):
            name = self.image_path(record).name
            entry: dict[str, Any] = {"id": number, "file_name": name, "height": height, "width": width}
            images.append({**entry, "group": record.group} if has_groups else entry)
        annotations = [
            {
                "id": id_,
                "image_id": numbers[place],
                "category_id": categories[content.pop("label")],
                **content,
            }
            for id_, (place, content) in enumerate(self._annotations, start=1)
        ]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(categories, self.class_names, strict=True)
            ],
        }
        write_text(self.folder / "annotations.json", json.dumps(content, separators=(",", ":")))

    def _segmentation(self, mask: np.ndarray, found: rle.Rle, *, is_crowd: bool) -> Any:
        if not self._use_polygons or is_crowd:
            return rle.to_json(found)
        polygons, num_holes = outlines(mask)
        self.lost[_HOLES] += num_holes > 0
        return polygons

    def _image_numbers(self) -> list[int | str]:
        known = [record.truth.image_number for record, _ in self._records if record.truth is not None]
        given = [number for number in known if number is not None]
        # Those of several files may repeat.
        is_whole = len(set(given)) == len(self._records)
        return given if is_whole else list(range(1, len(self._records) + 1))

    def _category_numbers(self) -> Sequence[int]:
        known = {record.truth.category_ids for record, _ in self._records if record.truth is not None}
        given = next(iter(known)) if len(known) == 1 else ()
        is_whole = len(set(given)) == len(self.class_names)
        return given if is_whole else range(1, len(self.class_names) + 1)
