"""A data set of the files that `lesion_files` writes."""

from __future__ import annotations

from pathlib import Path

from polymask.data.sources.ham10000 import read_records
from polymask.families.multitask.data import ImageMaskData

CLASSES = ["MEL", "NV", "BKL"]
FRACTIONS = (0.5, 0.25, 0.25)


def make_data(folder: Path, **options) -> ImageMaskData:
    settings = {
        "reader": read_records,
        "data_dir": str(folder),
        "classes": CLASSES,
        "image_size": [32, 48],
        "batch_size": 4,
        "fractions": FRACTIONS,
    }
    return ImageMaskData(**(settings | options))
