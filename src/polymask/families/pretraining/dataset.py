"""Images alone, decoded once and cropped anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from polymask.data.cache import SampleCache
from polymask.data.images import resize_image
from polymask.data.records import Record
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.structures.samples import SampleKey

_TRIES = 8  # of the augmentation: what acts by chance shows in one of them


class ImageDataset(Dataset[dict[str, Any]]):
    """Images of one subset: augmented to the network's size in training, resized to it in evaluation.

    An item is a dict with `id` str, `image` (H, W, 3) uint8, `index` int.

    Args:
        records: The samples.
        decoded_size: (height, width) at which images are decoded and cached.
        image_size: (height, width) of the items.
        augmentation: Makes items of decoded images, None to resize them.
        cache_dir: Folder for the decoded images, None to decode each time.
        cache_records: All samples that the cache file has room for, None for `records`.
        seed: Seed of the augmentation.

    Raises:
        UserError: The augmentation changes type or channels, or gives another size than `image_size`; or the
            cache folder cannot be used.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        decoded_size: tuple[int, int],
        image_size: tuple[int, int],
        augmentation: Augmentation | None = None,
        cache_dir: Path | None = None,
        cache_records: Sequence[Record] | None = None,
        seed: int = 0,
    ) -> None:
        if augmentation is not None:
            augmentation.check(lambda: decoded_size, keep_size=False)
            _check_size(augmentation, decoded_size, image_size)
        self.records = list(records)
        self.decoded_size, self.image_size = decoded_size, image_size
        self.augmentation, self.seed = augmentation, seed
        self._cache: SampleCache | None = None
        if cache_dir is not None:
            cached = self.records if cache_records is None else cache_records
            key = [record.content_key() for record in cached]
            shape = (*decoded_size, 3)
            self._cache = SampleCache(cache_dir, key=key, num_samples=len(cached), shape=shape)
            row_of = {record.id: row for row, record in enumerate(cached)}
            self._rows = [row_of[record.id] for record in self.records]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return the sample of `key` = (epoch, index, repeat)."""
        epoch, index, repeat = key
        record = self.records[index]
        if self._cache is None:
            image = self._read(record)
        else:
            image = self._cache.get(self._rows[index], lambda: self._read(record))
        if self.augmentation is None:
            image = resize_image(image, self.image_size)
        else:
            image = _augment(self.augmentation, image, (self.seed, epoch, index, repeat))
        return {"id": record.id, "image": image, "index": index}

    def _read(self, record: Record) -> np.ndarray:
        return resize_image(record.read_image(), self.decoded_size)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack images, still uint8: the device turns them into floats.

    Returns:
        A dict with `ids` list[str] and `image` (B, H, W, 3) uint8.
    """
    return {
        "ids": [item["id"] for item in items],
        "image": torch.from_numpy(np.stack([item["image"] for item in items])),
    }


def _augment(augmentation: Augmentation, image: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    no_mask = np.zeros(image.shape[:2], np.uint8)  # transforms want one
    # Whatever the crop changes of the size is wanted: nothing may be turned back because of it.
    return augmentation(np.ascontiguousarray(image), no_mask, seed, keep_size=False)[0]


def _check_size(augmentation: Augmentation, decoded: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = np.zeros((*decoded, 3), np.uint8)
    for number in range(_TRIES):
        height, width = _augment(augmentation, image, (number,)).shape[:2]
        if (height, width) != wanted:
            raise UserError(
                f"the transforms make {width} x {height} pixels of an image of {decoded[1]} x {decoded[0]} "
                f"(data.image_size), but the network takes {wanted[1]} x {wanted[0]} (data.input_size): use "
                "transforms=pretraining, whose crop has that size, or set data.image_size to it."
            )
