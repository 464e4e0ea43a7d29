"""What a run has of one data set: samples, split, loaders, class counts, fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from polymask.data.attributes import Attributes
from polymask.data.corrections import Corrections
from polymask.data.headers import NumberFormat
from polymask.data.inspection import FileMemory, image_facts
from polymask.data.intensity import EIGHT_BIT, Range, check_depth, find_range
from polymask.data.loading import Loading
from polymask.data.reading import read_ahead
from polymask.data.records import Record
from polymask.data.samplers import EvaluationBatches, TrainBatches
from polymask.data.samples import Samples
from polymask.data.splits.plan import SplitPlan
from polymask.data.splits.split import SUBSETS, Split
from polymask.data.splits.statistics import format_statistics
from polymask.data.views import Views, collate_views
from polymask.errors import UserError
from polymask.structures.samples import OriginalSample, TitledSample

if TYPE_CHECKING:
    from polymask.data.transforms import Augmentation  # its library takes a second


@final
class DataModule:
    """All that a run needs of one data set; what a sample is, `Samples` says.

    Args:
        samples: The samples.
        plan: How they are split.
        loading: How they are loaded.
        attributes: Which columns of a table matter.
        split: A split from a checkpoint; it wins over what `plan` would draw or read.
        corrections: What a person corrected of the truth, None for nothing.
        augmentation: For training samples.
        seed: Seed of order and augmentation.

    Raises:
        UserError: There are no samples, they cannot be split so, or their files are not sound.
    """

    def __init__(
        self,
        samples: Samples,
        plan: SplitPlan,
        loading: Loading,
        *,
        attributes: Attributes | None = None,
        split: Split | None = None,
        corrections: Corrections | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        if not samples.classes and loading.sampler == "weighted":
            raise UserError(
                "data.sampler=weighted needs classes, but data.classes=[] names none; use "
                "data.sampler=shuffle."
            )
        if not samples.records:
            raise UserError(
                f"data.classes={samples.classes} leaves no sample of {samples.data_dir}; name its classes."
            )
        if samples.windows_each and loading.given_range:
            raise UserError(
                f"data.intensity_range={loading.intensity_range} is of no use here, where each sample "
                "becomes 8 bits by percentiles of its own values (data.window); leave it out."
            )
        self.samples, self._loading = samples, loading
        self.attributes = attributes or Attributes()
        samples.records = self.attributes.attach(samples.records, str(samples.data_dir))
        self._augmentation, self._seed = augmentation, seed
        self.corrections = corrections
        self.split = self._correct_and_split(plan, split)
        cache = loading.cache_folder
        memory = FileMemory(cache / "facts" if cache else None, samples.data_dir)
        in_training = set(self.split.subsets["train"])
        training = [record for record in samples.records if record.id in in_training]
        self.metadata = self.attributes.encoding(training)
        self.intensity_range = loading.given_range or self._find_intensity_range(memory)
        with_range = partial(dataclasses.replace, intensity_range=self.intensity_range)
        samples.look([with_range(record) for record in samples.records], memory)

    def _correct_and_split(self, plan: SplitPlan, stored: Split | None) -> Split:
        """Return the split; the records are as the corrections say from here on."""
        samples, corrections = self.samples, self.corrections
        if corrections is None:
            return plan.split(samples.records, samples.classes, stored=stored)
        samples.records = corrections.apply(samples.records, samples.classes, samples.gives)
        split = plan.split(samples.records, samples.classes, stored=stored)
        self._corrected = corrections.description(split)
        excluded = corrections.excluded
        samples.records = [record for record in samples.records if record.id not in excluded]
        return split.without(excluded)

    @property
    def records(self) -> list[Record]:
        """Return one record per sample."""
        return self.samples.records

    @property
    def classes(self) -> list[str]:
        """Return the class names in the order of all outputs; none for data with masks only."""
        return self.samples.classes

    @property
    def data_dir(self) -> Path:
        """Return the folder of the data set."""
        return self.samples.data_dir

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Return (height, width) of the network's input, None when images keep their own sizes."""
        return self.samples.image_size

    def _find_intensity_range(self, memory: FileMemory) -> Range:
        """Return the range of the training images: 0 to 255 unless they have more than 8 bits per value."""
        if self.samples.windows_each:
            return EIGHT_BIT
        paths = [record.image_path for record in self.records]
        facts = zip(paths, image_facts(paths, memory), strict=True)
        # What is wrong with a file says the check of all of them.
        known = {path: found for path, found in facts if not isinstance(found, UserError)}
        if not check_depth({path: NumberFormat(one.bits, one.is_float) for path, one in known.items()}):
            return EIGHT_BIT
        in_training = set(self.split.subsets["train"])
        training = [record for record in self.records if record.id in in_training] or self.records
        return find_range([record.image_path for record in training])

    def subset(self, name: str) -> list[Record]:
        """Return the records of `train`, `val` or `test`.

        Raises:
            UserError: The split names samples that the data set does not have.
        """
        by_id = {record.id: record for record in self.records}
        wanted = self.split.subsets[name]
        if not wanted:
            alone = " Of one sample alone, all subsets are made by data.overfit_samples=1."
            raise UserError(
                f"the {name} subset is empty; give it a share in data.fractions or samples in the split."
                f"{alone * (len(by_id) == 1)}"
            )
        missing = [id_ for id_ in wanted if id_ not in by_id]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(wanted)} {name} samples of the split are not in the data set, e.g. "
                f"{missing[0]!r}; point data.data_dir at the data that the split was made from."
            )
        return [by_id[id_] for id_ in wanted]

    def train_loader(
        self, *, rank: int = 0, world_size: int = 1, batches_per_epoch: int | None = None
    ) -> EpochLoader:
        """Return the loader of this process' augmented batches, see `TrainBatches`."""
        records = self.subset("train")
        dataset = self._training_dataset(records, self._augmentation, cache_dir=self._loading.cache_folder)
        batches = TrainBatches(
            len(dataset),  # type: ignore[arg-type]  # every one has a length
            batch_size=self._loading.batch_size,
            seed=self._seed,
            weights=self._weights(records, len(dataset)),  # type: ignore[arg-type]
            rank=rank,
            world_size=world_size,
            batches_per_epoch=batches_per_epoch,
        )
        return self._loader(dataset, batches)

    def _weights(self, records: Sequence[Record], num_items: int) -> list[float] | None:
        """Return the sampling weight of each training item, None for an equal chance.

        Raises:
            UserError: Weights are wanted, but samples are not what is drawn.
        """
        if self._loading.sampler != "weighted":
            return None
        if num_items != len(records):
            raise UserError(
                "data.sampler=weighted draws samples by their class, but what is trained on here are parts "
                "of them; use data.sampler=shuffle."
            )
        return _class_balanced(records)

    def evaluation_loader(
        self, subset: str, *, rank: int = 0, world_size: int = 1, beside: Sequence[DataModule] | None = None
    ) -> DataLoader[dict[str, Any]]:
        """Return the loader of this process' plain batches; over all processes each sample comes once.

        Args:
            subset: Its name.
            rank: Number of this process.
            world_size: Number of processes.
            beside: Data sets that see the same samples in other ways: batches then are those of `Views`, of
                this data set first.
        """
        records = self.subset(subset)
        batches = EvaluationBatches(
            len(records),
            batch_size=self._loading.evaluation_size,
            rank=rank,
            world_size=world_size,
        )
        dataset = self._plain_dataset(subset)
        if beside is None:
            return self._loader(dataset, batches)
        datasets = [dataset, *(other._plain_dataset(subset) for other in beside)]
        collates = [self._collate(), *(other._collate() for other in beside)]
        return self._loader(Views(datasets), batches, collate=partial(collate_views, collates=collates))

    def _plain_dataset(self, subset: str) -> Dataset[dict[str, Any]]:
        return self.samples.dataset(
            self.subset(subset), augmentation=None, cache_dir=self._loading.cache_folder, seed=self._seed
        )

    def groups(self, ids: Sequence[str]) -> list[str]:
        """Return the group (patient, photograph) of each sample."""
        group = {record.id: record.group for record in self.records}
        return [group[id_] for id_ in ids]

    def subgroups(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the subgroup of each sample, a column (N,) str per name of `data.subgroups`."""
        return self.attributes.rows(self.records, ids)

    def class_counts(self, subset: str) -> list[int]:
        """Return the number of labelled samples per class."""
        labels = [record.label for record in self.subset(subset)]
        return [labels.count(index) for index in range(len(self.classes))]

    def fingerprint(self) -> str:
        """Return a hash of the samples' names, labels, groups and file sizes: equal data, equal hash."""
        rows = (f"{r.id}|{r.label}|{r.group}|{r.fingerprint()}" for r in self.records)
        return hashlib.sha256("\n".join([",".join(self.classes), *rows]).encode()).hexdigest()

    def description(self) -> str:
        """Return one line on what was read: sizes, values, foreground, corrections."""
        own = self.samples.description()
        return own if self.corrections is None else f"{own}; {self._corrected}"

    def check_truth(self, needs: frozenset[str], subsets: Sequence[str] = SUBSETS) -> None:
        """Stop when the masks, objects or volumes of a subset teach nothing, if they are needed.

        Args:
            needs: What a task learns from.
            subsets: Which to look at.

        Raises:
            UserError: A subset has no masks or objects, or all of them are alike.
        """
        if needs & {"mask", "objects", "volume"}:
            used = [name for name in subsets if self.split.subsets[name]]
            self.samples.check_truth({name: self.subset(name) for name in used})

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
        return read_ahead(
            lambda record: self.samples.original(record, subset_of.get(record.id, "")), self.records
        )

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
        plain = self._training_dataset(records, None, cache_dir=None)
        augmented = self._training_dataset(records, self._augmentation, cache_dir=None)
        number = len(plain)  # type: ignore[arg-type]
        chosen = np.random.default_rng(seed).permutation(number)[:num_images]
        for index in sorted(chosen.tolist()):
            items = {"plain": plain[0, index, 0]}
            items |= {f"epoch {epoch + 1}": augmented[epoch, index, 0] for epoch in range(num_epochs)}
            yield [self.samples.titled(item, f"{item['id']}, {title}") for title, item in items.items()]

    def training_batch(self, num_images: int) -> dict[str, Any]:
        """Return random training samples as a batch of the first epoch, or all if there are fewer."""
        dataset = self._training_dataset(self.subset("train"), self._augmentation, cache_dir=None)
        number = len(dataset)  # type: ignore[arg-type]
        chosen = np.random.default_rng(self._seed).permutation(number)[:num_images]
        return self._collate()([dataset[0, index, 0] for index in chosen.tolist()])

    def _training_dataset(
        self, records: list[Record], augmentation: Augmentation | None, *, cache_dir: Path | None
    ) -> Dataset[dict[str, Any]]:
        return self.samples.training_dataset(
            records, augmentation=augmentation, cache_dir=cache_dir, seed=self._seed
        )

    def _collate(self) -> Callable[..., dict[str, Any]]:
        if self.metadata is None:
            return self.samples.collate
        features = {record.id: self.metadata.encode(record.attributes) for record in self.records}
        return _CollateWithMetadata(self.samples.collate, features)

    def _loader(
        self,
        dataset: Dataset[Any],
        batches: TrainBatches | EvaluationBatches,
        *,
        collate: Callable[..., dict[str, Any]] | None = None,
    ) -> EpochLoader:
        return EpochLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self._loading.num_processes,
            collate_fn=collate or self._collate(),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self._loading.num_processes > 0,
            # Its own generator: iterating must not draw from the global one, which dropout draws from.
            generator=torch.Generator().manual_seed(self._seed),
        )


class _CollateWithMetadata:
    """Adds `metadata` (B, F) float32 to batches."""

    def __init__(self, collate: Callable[..., dict[str, Any]], features: Mapping[str, np.ndarray]) -> None:
        self.collate, self.features = collate, features

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some items."""
        batch = self.collate(items)
        features = np.stack([self.features[id_] for id_ in batch["ids"]])
        return {**batch, "metadata": torch.from_numpy(features)}


class EpochLoader(DataLoader[dict[str, Any]]):
    """Batches that an epoch draws anew, where its batch sampler draws."""

    def start_epoch(self, epoch: int) -> None:
        """Draw the samples of `epoch` (from 0) from now on."""
        assert isinstance(self.batch_sampler, TrainBatches)
        self.batch_sampler.start_epoch(epoch)


def _class_balanced(records: Sequence[Record]) -> list[float]:
    """Return the sampling weight of each record: the inverse of its class' size."""
    labels = [record.label for record in records]
    size = {label: labels.count(label) for label in set(labels)}
    return [1 / size[label] for label in labels]
