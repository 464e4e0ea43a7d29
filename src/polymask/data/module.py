"""All that a run needs of one data set: records, split, loaders, class counts, fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from polymask.data.cache import file_status
from polymask.data.dataset import ImageMaskDataset, collate
from polymask.data.records import Record
from polymask.data.samplers import EvaluationBatches, TrainBatches
from polymask.data.split_statistics import format_statistics
from polymask.data.splits import Split, draw_fold, draw_split, read_split_file
from polymask.data.transforms import Augmentation
from polymask.errors import UserError, choose, whole_number
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

SEGMENTATIONS = ("binary", "multiclass")
SAMPLERS = ("shuffle", "weighted")


class RecordReader(Protocol):
    """Finds the samples of one on-disk layout."""

    def __call__(self, data_dir: Path, classes: Sequence[str]) -> list[Record]:
        """Return one record per image."""


class ImageMaskData:
    """A data set of images with lesion masks and class labels.

    Args:
        reader: Finds the samples below `data_dir`, see `RecordReader`.
        data_dir: Folder of the data set.
        classes: Class names; their order is the order of all outputs.
        image_size: Side of the network's input in pixels, or (height, width).
        batch_size: Samples per optimisation step and process.
        eval_batch_size: Samples per batch of evaluation, None for twice `batch_size`.
        num_workers: Loader processes, at most one per core; 0 loads in the training process.
        segmentation: `binary` (1 = lesion) or `multiclass` (1 + class index of the lesion).
        sampler: `shuffle`, or `weighted` to draw all classes equally often.
        fractions: Shares of train, val and test.
        split_seed: Seed of the split, apart from the seed of the run.
        split_file: CSV with the columns id and subset, instead of drawing a split.
        num_folds: Cross-validation in this many parts: part `fold` is test, the next one val.
        fold: Which fold, from 0.
        overfit_samples: Use only this many training samples, the same ones for train, val and test.
        cache_dir: Folder for decoded samples, None for no cache.
        split: A split from a checkpoint; it wins over all of the above.
        augmentation: For training samples.
        seed: Seed of order and augmentation.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    def __init__(
        self,
        *,
        reader: RecordReader,
        data_dir: str,
        classes: Sequence[str],
        image_size: int | Sequence[int],
        batch_size: int,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        segmentation: str = "binary",
        sampler: str = "shuffle",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        split_seed: int = 0,
        split_file: str | None = None,
        num_folds: int | None = None,
        fold: int = 0,
        overfit_samples: int | None = None,
        cache_dir: str | None = None,
        split: Split | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.segmentation = choose("data.segmentation", segmentation, SEGMENTATIONS)
        self.sampler = choose("data.sampler", sampler, SAMPLERS)
        self.classes = _class_names(classes)
        self.image_size = parse_image_size(image_size)
        self.batch_size = whole_number("data.batch_size", batch_size, least=1)
        self.eval_batch_size = (
            2 * batch_size
            if eval_batch_size is None
            else whole_number("data.eval_batch_size", eval_batch_size, least=1)
        )
        # More workers than cores only wait for one another.
        self.num_workers = min(whole_number("data.num_workers", num_workers, least=0), _num_cores())
        self._cache_dir = resolve(cache_dir) if cache_dir else None
        self._augmentation, self._seed = augmentation, seed

        self.records = reader(data_dir=resolve(data_dir), classes=self.classes)
        self.split = (
            split
            if split is not None
            else self._make_split(
                fractions=fractions, seed=split_seed, file=split_file, num_folds=num_folds, fold=fold
            )
        )
        if overfit_samples is not None:
            self.split = _same_for_all(
                self.split, whole_number("data.overfit_samples", overfit_samples, least=1)
            )

    def _make_split(
        self, *, fractions: Sequence[float], seed: int, file: str | None, num_folds: int | None, fold: int
    ) -> Split:
        """Read the split of a file, else draw a fold, else draw by fractions."""
        if file:
            return read_split_file(resolve(file), self.records, self.classes)
        whole_number("data.split_seed", seed, least=0)
        if num_folds is not None:
            return draw_fold(self.records, self.classes, num_folds=num_folds, fold=fold, seed=seed)
        if fold:
            raise UserError(f"data.fold={fold} needs the number of folds: add data.num_folds=5.")
        return draw_split(self.records, self.classes, fractions=fractions, seed=seed)

    def subset(self, name: str) -> list[Record]:
        """Return the records of `train`, `val` or `test`.

        Raises:
            UserError: The split names samples that the data set does not have.
        """
        by_id = {record.id: record for record in self.records}
        wanted = self.split.subsets[name]
        if not wanted:
            raise UserError(
                f"the {name} subset is empty; give it a share in data.fractions or samples in the split."
            )
        missing = [id_ for id_ in wanted if id_ not in by_id]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(wanted)} {name} samples of the split are not in the data set, e.g. "
                f"{missing[0]!r}; point data.data_dir at the data that the split was made from."
            )
        return [by_id[id_] for id_ in wanted]

    def train_loader(self, *, rank: int = 0, world_size: int = 1) -> DataLoader[dict[str, Any]]:
        """Return the loader of this process' augmented batches; its `batch_sampler` takes the epoch."""
        records = self.subset("train")
        batches = TrainBatches(
            len(records),
            batch_size=self.batch_size,
            seed=self._seed,
            weights=_class_balanced(records) if self.sampler == "weighted" else None,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(records, batches, self._augmentation)

    def evaluation_loader(
        self, subset: str, *, rank: int = 0, world_size: int = 1
    ) -> DataLoader[dict[str, Any]]:
        """Return the loader of this process' plain batches; over all processes each sample comes once."""
        records = self.subset(subset)
        batches = EvaluationBatches(
            len(records),
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(records, batches, None)

    def groups(self, ids: Sequence[str]) -> list[str]:
        """Return the group (lesion, patient) of each sample."""
        group = {record.id: record.group for record in self.records}
        return [group[id_] for id_ in ids]

    def class_counts(self, subset: str) -> list[int]:
        """Return the number of labelled samples per class."""
        labels = [record.label for record in self.subset(subset)]
        return [labels.count(index) for index in range(len(self.classes))]

    def fingerprint(self) -> str:
        """Return a hash of the samples' names, labels, groups and file sizes: equal data, equal hash."""
        rows = (
            f"{r.id}|{r.label}|{r.group}|{file_status(r.image_path).st_size}|"
            f"{file_status(r.mask_path).st_size if r.mask_path else '-'}"
            for r in self.records
        )
        return hashlib.sha256("\n".join([",".join(self.classes), *rows]).encode()).hexdigest()

    def statistics(self) -> str:
        """Return a table of images, groups and class shares per subset."""
        return format_statistics(self.split, self.records, self.classes)

    def _loader(
        self, records: list[Record], batches: Any, augmentation: Augmentation | None
    ) -> DataLoader[dict[str, Any]]:
        dataset = ImageMaskDataset(
            records,
            image_size=self.image_size,
            multiclass=self.segmentation == "multiclass",
            augmentation=augmentation,
            cache_dir=self._cache_dir,
            # One cache for the whole data set: folds and other splits find their samples decoded.
            cache_records=self.records,
            seed=self._seed,
        )
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # Its own generator: iterating must not draw from the global one, which dropout draws from.
            generator=torch.Generator().manual_seed(self._seed),
        )


def parse_image_size(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) from a side or a pair.

    Raises:
        UserError: Not one or two integers of at least 32.
    """
    size = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(size) != 2 or any(not isinstance(side, int) or side < 32 for side in size):
        raise UserError(
            f"data.image_size={value} is not valid; give one side or [height, width], each >= 32 pixels."
        )
    return size[0], size[1]


def _num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _class_names(classes: Sequence[str]) -> list[str]:
    names = [str(name) for name in classes]
    if not names or len(set(names)) != len(names):
        raise UserError(f"data.classes={names} must be a list of different names, e.g. [MEL,NV,BKL].")
    return names


def _same_for_all(split: Split, num_samples: int) -> Split:
    # A stored split has a row per sample: of one made here it names the samples for test only.
    samples = (split.subsets["train"] or split.subsets["test"])[:num_samples]
    return dataclasses.replace(split, subsets=dict.fromkeys(split.subsets, samples))


def _class_balanced(records: Sequence[Record]) -> list[float]:
    """Return the sampling weight of each record: the inverse of its class' size."""
    labels = [record.label for record in records]
    size = {label: labels.count(label) for label in set(labels)}
    return [1 / size[label] for label in labels]
