"""Images with objects read as images with one mask: the union of the objects, or their classes.

So the networks for semantic masks learn from the very data sets, splits and folds of Mask R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymask.data import coco, label_maps
from polymask.data.records import Record


def read_coco(data_dir: str | Path, classes: Sequence[str], **options: Any) -> list[Record]:
    """Read a COCO data set, see `coco.read_records`."""
    return list(coco.read_records(data_dir, classes, **options)[0])


def read_label_maps(data_dir: str | Path, classes: Sequence[str], **options: Any) -> list[Record]:
    """Read a data set of label maps, see `label_maps.read_records`."""
    return list(label_maps.read_records(data_dir, classes, **options)[0])
