"""Images of any size with their objects, decoded once and augmented anew in every epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from polymask.data.records import Record
from polymask.data.sizes import image_size
from polymask.data.transforms import Augmentation
from polymask.families.instances.cache import InstanceCache, Sample
from polymask.families.instances.copy_paste import CopyPaste
from polymask.structures.samples import SampleKey

_PASTING, _PARTNER = 1, 2
"""End of the seeds of what is pasted, and of the augmentation of the image that it comes from."""


class InstanceDataset(Dataset[dict[str, Any]]):
    """Samples of one subset, each at its own size.

    An item is a dict with `id` str, `image` (H, W, 3) uint8, `index` int and `target`, the objects as
    `Layers.to_target` gives them: an object that augmentation moves out of the image is not among
    them, and boxes are those of the augmented masks.

    Args:
        records: The samples.
        augmentation: Applied to image and objects, None for evaluation.
        copy_paste: Puts objects of other samples onto one after the augmentation of both, None for never.
        cache_dir: Folder for the decoded samples, None to decode each time.
        seed: Seed of the augmentation and of what is pasted.

    Raises:
        UserError: The cache folder cannot be used, or the augmentation copies parts of the image to its
            border or changes type or channels; any size is fine, since boxes come from the new masks.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None = None,
        copy_paste: CopyPaste | None = None,
        cache_dir: Path | None = None,
        seed: int = 0,
    ) -> None:
        if augmentation is not None:
            augmentation.refuse_copied_borders()
            augmentation.check(lambda: _smallest_size(records), layers=True, keep_size=False)
        self.records = list(records)
        self.augmentation = augmentation
        self.copy_paste = copy_paste
        self.seed = seed
        self._cache = None if cache_dir is None else InstanceCache(cache_dir)
        self._keys: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return the sample of `key` = (epoch, index, repeat)."""
        epoch, index, repeat = key
        seed = (self.seed, epoch, index, repeat)
        image, objects = self._pasted(index, seed)
        target = objects.to_target()
        return {"id": self.records[index].id, "image": image, "target": target, "index": index}

    def _pasted(self, index: int, seed: tuple[int, ...]) -> Sample:
        """Return an augmented sample, with objects of another where chance will have it."""
        sample = self._augmented(index, seed)
        if self.copy_paste is None or len(self) == 1:
            return sample
        random = np.random.default_rng([*seed, _PASTING])
        if random.random() >= self.copy_paste.probability:
            return sample
        other = (index + int(random.integers(1, len(self)))) % len(self)
        return self.copy_paste(sample, self._augmented(other, (*seed, _PARTNER)), random)

    def _augmented(self, index: int, seed: tuple[int, ...]) -> Sample:
        image, objects = self._load(index)
        if self.augmentation is None:
            return image, objects
        image, layers = self.augmentation(image, objects.layers, seed, keep_size=False)
        return image, dataclasses.replace(objects, layers=layers)

    def _load(self, index: int) -> Sample:
        record = self.records[index]
        if self._cache is None:
            return _decode(record)
        if index not in self._keys:  # files are asked for their times once, not in every epoch
            self._keys[index] = record.content_key()
        return self._cache.get(self._keys[index], lambda: _decode(record))


def collate_instances(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Put samples into a batch of lists, since images differ in size and in their number of objects.

    Returns:
        A dict with `ids` list[str]; `image`, a list of tensors (H, W, 3) uint8; `target`, a list of dicts
        {`boxes` (N, 4) float32, `labels` (N,) int64, `masks` (N, H, W) uint8, `crowd` (N,) bool}.
    """
    return {
        "ids": [sample["id"] for sample in samples],
        "image": [torch.from_numpy(np.ascontiguousarray(sample["image"])) for sample in samples],
        "target": [
            {name: torch.from_numpy(value) for name, value in sample["target"].items()} for sample in samples
        ],
    }


def _decode(record: Record) -> Sample:
    image = record.read_image()
    height, width = image.shape[:2]
    return image, record.read_objects((height, width))


def _smallest_size(records: Sequence[Record]) -> tuple[int, int]:
    """Return the least height and the least width, to which every transform must apply."""
    sizes = [image_size(record.image_path) for record in records]
    return min(height for height, _ in sizes), min(width for _, width in sizes)
