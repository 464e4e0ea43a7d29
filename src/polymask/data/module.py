"""What all data sets share: records, split, loaders, class counts, fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from polymask.data.facts import Foreground
from polymask.data.headers import NumberFormat
from polymask.data.inspection import FileMemory, image_facts
from polymask.data.intensity import EIGHT_BIT, Range, check_depth, find_range, parse_range
from polymask.data.mask_checks import check_foregrounds, drawn_foregrounds
from polymask.data.reading import read_ahead
from polymask.data.records import Record
from polymask.data.samplers import EvaluationBatches, TrainBatches
from polymask.data.splits.split import SUBSETS, Split, draw_fold, draw_split, read_split_file
from polymask.data.splits.statistics import format_statistics
from polymask.data.transforms import Augmentation
from polymask.errors import UserError, choose, whole_number
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.utils.cores import num_cores
from polymask.utils.paths import resolve

SAMPLERS = ("shuffle", "weighted")

RecordType = TypeVar("RecordType", bound=Record)


class DataModule(ABC, Generic[RecordType]):
    """All that a run needs of one data set. A subclass says what a sample is.

    Attributes:
        samples: What the samples are, in the words of the task's `samples`.
        full_masks_allowed: Whether a subset whose masks have no background can be learned from.

    Args:
        records: The samples.
        data_dir: Folder of the data set.
        classes: Class names; their order is the order of all outputs. Empty for data with masks only.
        batch_size: Samples per optimisation step and process.
        eval_batch_size: Samples per batch of evaluation, None for twice `batch_size`.
        num_workers: Loader processes, at most one per core; 0 loads in the training process.
        sampler: `shuffle`, or `weighted` to draw all classes equally often.
        fractions: Shares of train, val and test.
        split_seed: Seed of the split, apart from the seed of the run.
        split_file: CSV with the columns id and subset, instead of drawing a split.
        num_folds: Cross-validation in this many parts: part `fold` is test, the next one val.
        fold: Which fold, from 0.
        overfit_samples: Use only this many training samples, the same ones for train, val and test.
        cache_dir: Folder for decoded samples, None for no cache.
        intensity_range: Values that become black and white, None for 0 to 255 where images have 8 bits and
            for percentiles of the training images where they have more, see `polymask.data.intensity`.
        split: A split from a checkpoint; it wins over all of the above.
        augmentation: For training samples.
        seed: Seed of order and augmentation.
        allow_absent: Whether the data set may lack some of `classes`: true for a test and for an analysis.

    Raises:
        UserError: An argument is out of range.
    """

    samples: str
    full_masks_allowed = True

    def __init__(
        self,
        *,
        records: Sequence[RecordType],
        data_dir: Path,
        classes: Sequence[str],
        batch_size: int,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        sampler: str = "shuffle",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        split_seed: int = 0,
        split_file: str | None = None,
        num_folds: int | None = None,
        fold: int = 0,
        overfit_samples: int | None = None,
        cache_dir: str | None = None,
        intensity_range: Sequence[float] | None = None,
        split: Split | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        allow_absent: bool = False,
    ) -> None:
        self.records, self.data_dir, self.classes = list(records), data_dir, list(classes)
        self.sampler = choose("data.sampler", sampler, SAMPLERS)
        if not self.classes and sampler == "weighted":
            raise UserError(
                "data.sampler=weighted needs classes, but data.classes=[] names none; use "
                "data.sampler=shuffle."
            )
        self.batch_size = whole_number("data.batch_size", batch_size, least=1)
        self.eval_batch_size = (
            2 * batch_size
            if eval_batch_size is None
            else whole_number("data.eval_batch_size", eval_batch_size, least=1)
        )
        # More workers than cores only wait for one another.
        self.num_workers = min(whole_number("data.num_workers", num_workers, least=0), num_cores())
        self._cache_dir = resolve(cache_dir) if cache_dir else None
        self._augmentation, self._seed = augmentation, seed
        self.allow_absent = allow_absent
        self.memory = FileMemory(self._cache_dir / "facts" if self._cache_dir else None, data_dir)
        if not self.records:
            raise UserError(
                f"data.classes={self.classes} leaves no sample of {self.data_dir}; name its classes."
            )
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

        self.intensity_range = parse_range(intensity_range) or self._find_intensity_range()
        self.records = [
            dataclasses.replace(record, intensity_range=self.intensity_range) for record in self.records
        ]

    @abstractmethod
    def _dataset(
        self, records: list[RecordType], augmentation: Augmentation | None, *, cache_dir: Path | None
    ) -> Dataset[dict[str, Any]]:
        """Return the dataset of some samples."""

    @property
    @abstractmethod
    def _collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Return what makes a batch of the dataset's items."""

    @abstractmethod
    def _original(self, record: RecordType, subset: str) -> OriginalSample:
        """Return a sample as it is on disk."""

    @abstractmethod
    def _titled(self, item: dict[str, Any], title: str) -> TitledSample:
        """Return an item of the dataset as a picture."""

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

    def _find_intensity_range(self) -> Range:
        """Return the range of the training images: 0 to 255 unless they have more than 8 bits per value."""
        paths = [record.image_path for record in self.records]
        facts = zip(paths, image_facts(paths, self.memory), strict=True)
        # What is wrong with a file says the check of all of them.
        known = {path: found for path, found in facts if not isinstance(found, UserError)}
        if not check_depth({path: NumberFormat(one.bits, one.is_float) for path, one in known.items()}):
            return EIGHT_BIT
        in_training = set(self.split.subsets["train"])
        training = [record for record in self.records if record.id in in_training] or self.records
        return find_range([record.image_path for record in training])

    def subset(self, name: str) -> list[RecordType]:
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
        rows = (f"{r.id}|{r.label}|{r.group}|{r.fingerprint()}" for r in self.records)
        return hashlib.sha256("\n".join([",".join(self.classes), *rows]).encode()).hexdigest()

    def description(self) -> str:
        """Return one line on what was read: sizes, values, foreground."""
        return f"{len(self.records):,} {self.samples}"

    def foregrounds(self) -> dict[str, Foreground]:
        """Return the foreground of each sample that has a mask, by id; found once, then remembered.

        Raises:
            UserError: A mask cannot be read.
        """
        found = drawn_foregrounds([record for record in self.records if record.has_mask], self.memory)
        for facts in found.values():
            if isinstance(facts, UserError):
                raise facts
        return {id_: facts for id_, facts in found.items() if isinstance(facts, Foreground)}

    def check_masks(self, subsets: Sequence[str] = SUBSETS) -> None:
        """Stop when the masks of a subset teach nothing; for tasks that learn masks.

        Raises:
            UserError: A subset has no masks, or all of its masks are empty or all are full.
        """
        foregrounds = self.foregrounds()
        for name in subsets:
            if self.split.subsets[name]:
                check_foregrounds(name, self.subset(name), foregrounds, full_allowed=self.full_masks_allowed)

    def check_truth(self, needs: frozenset[str], subsets: Sequence[str] = SUBSETS) -> None:
        """Stop when the masks or objects of a subset teach nothing, if they are needed."""
        if needs & {"mask", "objects"}:
            self.check_masks(subsets)

    def statistics(self) -> str:
        """Return a table of images, groups and class shares per subset."""
        return format_statistics(self.split, self.records, self.classes)

    def original_samples(self) -> Iterator[OriginalSample]:
        """Yield every sample as it is on disk, in the order of `records`; threads read ahead.

        Raises:
            UserError: A file cannot be read, or a mask and its image differ in size.
        """
        # Backwards, so that a sample of several subsets (overfit_samples) counts as one of the first.
        subsets = reversed(self.split.subsets.items())
        subset_of = {id_: subset for subset, ids in subsets for id_ in ids}
        return read_ahead(lambda record: self._original(record, subset_of.get(record.id, "")), self.records)

    def augmented_samples(
        self, num_images: int, num_epochs: int, *, seed: int = 0
    ) -> Iterator[list[TitledSample]]:
        """Yield random training samples: each as evaluation would see it, then as each epoch sees it.

        Args:
            num_images: Samples, fewer when the training subset has fewer.
            num_epochs: The first epochs of a training, one augmentation each.
            seed: Seed of the choice; the augmentation has the seed of the run.

        Yields:
            `1 + num_epochs` pictures of one sample, at the network's input size.
        """
        if not self.split.subsets["train"]:
            return
        records = self.subset("train")
        plain = self._dataset(records, None, cache_dir=None)
        augmented = self._dataset(records, self._augmentation, cache_dir=None)
        chosen = np.random.default_rng(seed).permutation(len(records))[:num_images]
        for index in sorted(chosen.tolist()):
            items = {"plain": plain[0, index, 0]}
            items |= {f"epoch {epoch + 1}": augmented[epoch, index, 0] for epoch in range(num_epochs)}
            yield [self._titled(item, f"{item['id']}, {title}") for title, item in items.items()]

    def _loader(
        self, records: list[RecordType], batches: Any, augmentation: Augmentation | None
    ) -> DataLoader[dict[str, Any]]:
        return DataLoader(
            self._dataset(records, augmentation, cache_dir=self._cache_dir),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # Its own generator: iterating must not draw from the global one, which dropout draws from.
            generator=torch.Generator().manual_seed(self._seed),
        )


def class_name_list(classes: Sequence[str]) -> list[str]:
    """Return class names as text.

    Raises:
        UserError: A name occurs twice.
    """
    names = [str(name) for name in classes]
    if len(set(names)) != len(names):
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
