"""Images with a mask and a label, decoded once and augmented anew in every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from polymask.data.cache import SampleCache
from polymask.data.images import fit_image, fit_mask
from polymask.data.records import Record
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.structures.masks import IGNORE
from polymask.structures.samples import SampleKey


class ImageMaskDataset(Dataset[dict[str, Any]]):
    """Samples of one subset, resized to one size.

    An item is a dict with `id` str, `image` (H, W, 3) uint8, `mask` (H, W) uint8 with 255 = ignore (all of
    it when the sample has no mask), `label` int with -1 = unknown, `index` int, and `size`, where `sizes` are
    given.

    Args:
        records: The samples.
        image_size: (height, width) of the network's input in pixels.
        fit: `stretch` images to that size, or `letterbox`: keep their aspect, pad and ignore the padding.
        multiclass: Give pixels 1 + their class instead of 1; pixels of unknown class are ignored.
        augmentation: Applied to image and mask, None for evaluation.
        cache_dir: Folder for the decoded samples, None to decode each time.
        cache_records: All samples that the cache file has room for, None for `records`.
        sizes: Own (height, width) of each image by id; an evaluation may ask for it.
        seed: Seed of the augmentation.

    Raises:
        UserError: The augmentation changes type, channels or size, or the cache folder cannot be used.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        image_size: tuple[int, int],
        fit: str = "stretch",
        multiclass: bool = False,
        augmentation: Augmentation | None = None,
        cache_dir: Path | None = None,
        cache_records: Sequence[Record] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        seed: int = 0,
    ) -> None:
        if augmentation is not None:
            augmentation.check(lambda: image_size)
        self.records = list(records)
        self.image_size, self.fit = image_size, fit
        self.multiclass = multiclass
        self.augmentation = augmentation
        self.sizes, self.seed = sizes, seed
        self._cache: SampleCache | None = None
        if cache_dir is not None:
            cached = self.records if cache_records is None else cache_records
            self._cache = _open_cache(cached, image_size, cache_dir, fit=fit, multiclass=multiclass)
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
            pixels = self._read(record)
        else:
            pixels = self._cache.get(self._rows[index], lambda: self._read(record))
        image, mask = pixels[..., :3], np.ascontiguousarray(pixels[..., 3])
        if self.augmentation is not None:
            image, mask = self.augmentation(
                np.ascontiguousarray(image), mask, (self.seed, epoch, index, repeat)
            )
            if not record.has_mask:
                mask = np.full_like(mask, IGNORE)  # where a transform filled in background
        item = {"id": record.id, "image": image, "mask": mask, "label": record.label, "index": index}
        return item if self.sizes is None else {**item, "size": self.sizes[record.id]}

    def _read(self, record: Record) -> np.ndarray:
        """Return image and binary mask as one (H, W, 4) array, so that one cache row holds the sample."""
        image, mask = read_original(record, classes=self.multiclass)
        pixels = np.empty((*self.image_size, 4), np.uint8)
        pixels[..., :3] = fit_image(image, self.image_size, self.fit)
        pixels[..., 3] = IGNORE if mask is None else fit_mask(mask, self.image_size, self.fit)
        return pixels


def read_original(record: Record, *, classes: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a sample at the size of its files.

    Args:
        record: The sample.
        classes: Return the class of each pixel rather than foreground or not.

    Returns:
        Image (H, W, 3) uint8 RGB and mask (H, W) uint8 with 255 = ignore; None when there is no mask.

    Raises:
        UserError: A file cannot be read, or image and mask differ in size.
    """
    image = record.read_image()
    mask = read_true_mask(record, classes=classes)
    if mask is not None and mask.shape != image.shape[:2]:
        assert record.truth is not None
        raise UserError(
            f"mask {record.truth.mask_file or 'of ' + record.id} is {mask.shape[1]} x {mask.shape[0]} pixels "
            f"but its image {record.image_path.name} is {image.shape[1]} x {image.shape[0]}; both must have "
            "one size."
        )
    return image, mask


def read_true_mask(record: Record, *, classes: bool) -> np.ndarray | None:
    """Decode the mask of a sample, see `read_original`, without its image; None when there is none."""
    if record.truth is None:
        return None
    return record.read_class_mask() if classes else record.read_mask()


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples into a batch, still uint8: the device turns it into floats.

    Returns:
        A dict with `ids` list[str]; `image` (B, H, W, 3) uint8; `mask` (B, H, W) uint8; `label` (B,) int64;
        `mask_rows` and `label_rows`: rows that have a mask or a label as int64, or None when all have, so
        that the loss can leave the others out without asking the device; and the same as `masked` and
        `labelled` list[bool], which stay where they are; and `sizes` where items have one.
    """
    labels = [sample["label"] for sample in samples]
    labelled = [label >= 0 for label in labels]
    masked = [bool((sample["mask"] != IGNORE).any()) for sample in samples]
    sizes = [sample["size"] for sample in samples if "size" in sample]
    return {
        **({"sizes": sizes} if sizes else {}),
        "ids": [sample["id"] for sample in samples],
        "image": torch.from_numpy(np.stack([sample["image"] for sample in samples])),
        "mask": torch.from_numpy(np.stack([sample["mask"] for sample in samples])),
        "label": torch.tensor(labels),
        "mask_rows": rows_of(masked),
        "label_rows": rows_of(labelled),
        "masked": masked,
        "labelled": labelled,
    }


def rows_of(present: list[bool]) -> torch.Tensor | None:
    """Return the rows that are present, int64, or None when all are."""
    return None if all(present) else torch.tensor(present).nonzero().flatten()


def _open_cache(
    records: Sequence[Record], image_size: tuple[int, int], folder: Path, *, fit: str, multiclass: bool
) -> SampleCache:
    # The label decides the values of class masks, and nothing of binary ones.
    key = [f"{record.content_key()}|{record.label if multiclass else ''}" for record in records]
    if fit != "stretch":  # which older caches do not name
        key.append(fit)
    return SampleCache(folder, key=key, num_samples=len(records), shape=(*image_size, 4))
