"""A data set of the files that `lesion_files` writes."""

from __future__ import annotations

from pathlib import Path

from data_sets import build

from polymask.data.module import DataModule
from polymask.data.sources import read_ham10000
from polymask.families.multitask import Samples

CLASSES = ["MEL", "NV", "BKL"]
FRACTIONS = (0.5, 0.25, 0.25)


def make_data(folder: Path, **options) -> DataModule:
    settings = {
        "reader": read_ham10000,
        "data_dir": str(folder),
        "classes": CLASSES,
        "image_size": [32, 48],
        "batch_size": 4,
        "fractions": FRACTIONS,
    }
    return build(Samples, **(settings | options))
