"""Slices with their neighbours for training, and whole volumes for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from polymask.data.images import resize_mask
from polymask.data.records import Record
from polymask.data.transforms import Augmentation
from polymask.data.volume_cache import Shape, VolumeCache
from polymask.data.volume_truth import volume_truth
from polymask.structures.layers import Layers
from polymask.structures.samples import SampleKey
from polymask.structures.volumes import slice_stack

_MANY = 5  # channels that no transform for colours takes
_GREYS = (1, 3)  # numbers of slices that such a transform would take for a grey or coloured image


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """How slices are made of volumes.

    Attributes:
        slices: Slices per item, odd: the annotated one in the middle.
        every: Of the annotated slices of a volume every k-th is an item.
        image_size: (height, width) of slices, None for their own.
        reference: Whether items have the neighbouring slice beside them.
    """

    slices: int = 3
    every: int = 1
    image_size: tuple[int, int] | None = None
    reference: bool = False

    def chosen(self, annotated: np.ndarray) -> np.ndarray:
        """Return the numbers of the slices that are items, of (Z,) bool: one at least if any is annotated."""
        places = np.flatnonzero(annotated)
        return places[min(self.every // 2, max(len(places) - 1, 0)) :: self.every]


class SliceDataset(Dataset[dict[str, Any]]):
    """Annotated slices of some volumes, each with its neighbours as channels.

    An item is a dict with `id` str (`01/t000/z012`), `index` int, `image` (H, W, n) uint8 grey slices, the
    annotated one in the middle, and `target`: what `Layers.to_target` gives, and `numbers` (N,) int64, the
    objects' numbers in the volume. With `reference`, an item also has `reference`, a dict of `image` and
    `target` of the slice before (of the first slice the one after), moved by the very same augmentation;
    where neither is annotated it is the slice itself.

    Args:
        records: The volumes.
        shapes: (Z, H, W) of each file.
        cache: Where decoded volumes lie.
        slicing: How slices are made.
        augmentation: Applied to slices and objects, None for none.
        seed: Seed of the augmentation.

    Raises:
        UserError: The augmentation copies parts of the image to its border, needs colours, or changes type or
            number of channels.
    """

    def __init__(
        self,
        records: Sequence[Record],
        shapes: Sequence[Shape],
        *,
        cache: VolumeCache,
        slicing: Slicing,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        if augmentation is not None:
            _check(augmentation, slicing, shapes)
        self.records, self.shapes = list(records), list(shapes)
        self.slicing, self.augmentation, self.seed = slicing, augmentation, seed
        self._cache = cache
        self._annotated = [
            volume_truth(record).annotated(shape[0]) for record, shape in zip(records, shapes, strict=True)
        ]
        self._places = [
            (number, z) for number, mask in enumerate(self._annotated) for z in slicing.chosen(mask).tolist()
        ]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self._places)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return the slice of `key` = (epoch, index, repeat)."""
        epoch, index, repeat = key
        number, z = self._places[index]
        seed = (self.seed, epoch, index, repeat)
        views = self._cache.views(self.records[number], self.shapes[number])
        volume, labels = (view.open() for view in views)
        item = {"id": f"{self.records[number].id}/z{z:03}", "index": index}
        item |= self._slice(volume, labels, z, seed)
        if self.slicing.reference:
            item["reference"] = self._slice(volume, labels, self._neighbour(number, z), seed)
        return item

    def _slice(self, volume: np.ndarray, labels: np.ndarray, z: int, seed: Sequence[int]) -> dict[str, Any]:
        """Return image and target of slice z."""
        image = slice_stack(volume, z, self.slicing.slices)
        numbers = resize_mask(np.array(labels[z]), self.slicing.image_size or labels[z].shape)[..., None]
        if self.augmentation is not None:
            image, numbers = self.augmentation(image, numbers, seed, keep_size=False)
        return {"image": image, "target": numbered_target(numbers)}

    def _neighbour(self, number: int, z: int) -> int:
        """Return the slice before z, else the one after, else z: the first that is annotated."""
        annotated = self._annotated[number]
        around = (place for place in (z - 1, z + 1) if 0 <= place < len(annotated) and annotated[place])
        return next(around, z)


class FrameDataset(Dataset[dict[str, Any]]):
    """Whole volumes.

    An item is a dict with `id` str (`01/t000`), `index` int, `volume`, a view of (Z, H, W) uint8, `truth`, a
    view of (Z, H0, W0) uint16 labels at the file's own size, and `annotated` (Z,) bool. Views open the
    volumes where they are used, so that what loader processes hand over is small.

    Args:
        records: The volumes.
        shapes: (Z, H0, W0) of each file.
        cache: Where decoded volumes lie.
    """

    def __init__(self, records: Sequence[Record], shapes: Sequence[Shape], *, cache: VolumeCache) -> None:
        self.records, self.shapes = list(records), list(shapes)
        self._cache = cache

    def __len__(self) -> int:
        """Return the number of volumes."""
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return the volume of `key` = (epoch, index, repeat); only the index counts."""
        index = key[1]
        record, shape = self.records[index], self.shapes[index]
        volume, truth = self._cache.views(record, shape)
        annotated = volume_truth(record).annotated(shape[0])
        return {"id": record.id, "index": index, "volume": volume, "truth": truth, "annotated": annotated}


def numbered_target(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return the objects of a slice.

    Args:
        numbers: (H, W, 1) uint16, 0 = background.

    Returns:
        `boxes`, `labels` (all 0), `masks` and `crowd` (all False) as `Layers.to_target` gives them, and
        `numbers` (N,) int64, ascending.
    """
    found = np.flatnonzero(np.bincount(numbers.ravel()))
    found = found[found > 0]
    layers = Layers(
        layers=numbers,
        layer=np.zeros(len(found), np.int64),
        number=found,
        labels=np.zeros(len(found), np.int64),
        crowd=np.zeros(len(found), bool),
    )
    return layers.to_target() | {"numbers": found.astype(np.int64)}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Put slices, or volumes, into a batch of lists.

    Returns:
        Of slices: `ids` list[str]; `image`, a list of (H, W, n) uint8; `target`, a list of dicts; and, where
        items have one, `reference`, a list of dicts of `image` and `target`; all arrays are tensors. Of
        volumes: `ids`, `volume`, `truth`, `annotated`, which stay as they are.
    """
    names = [name for name in items[0] if name not in ("id", "index")]
    batch: dict[str, Any] = {"ids": [item["id"] for item in items]}
    is_training = "target" in names
    return batch | {
        name: [_tensors(item[name]) if is_training else item[name] for item in items] for name in names
    }


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tensors(part) for name, part in value.items()}
    return torch.from_numpy(np.ascontiguousarray(value))


def _check(augmentation: Augmentation, slicing: Slicing, shapes: Sequence[Shape]) -> None:
    augmentation.refuse_copied_borders()
    sizes = [slicing.image_size or shape[1:] for shape in shapes]
    smallest = min(height for height, _ in sizes), min(width for _, width in sizes)
    # One or three slices would pass for a grey or coloured image, and come out as one.
    for channels in {slicing.slices, _MANY if slicing.slices in _GREYS else slicing.slices}:
        augmentation.check(lambda: smallest, layers=True, keep_size=False, channels=channels)
