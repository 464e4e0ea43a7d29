"""Volumes of which objects are known, cut into slices for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data import samples
from polymask.data.cache import file_key
from polymask.data.images import parse_image_size
from polymask.data.inspection import FileMemory
from polymask.data.reading import read_ahead
from polymask.data.records import Reader, Record
from polymask.data.stacks import PERCENTILES, check_percentiles, open_stack, windowed
from polymask.data.transforms import Augmentation
from polymask.data.volume_cache import Shape, VolumeCache
from polymask.data.volume_truth import volume_truth
from polymask.errors import UserError, whole_number
from polymask.families.volumes.dataset import FrameDataset, SliceDataset, Slicing, collate
from polymask.families.volumes.voxel_size import parse_voxel_size
from polymask.structures.samples import OriginalSample, TitledSample


class Samples(samples.Samples):
    """Volumes with numbered objects: training sees slices, evaluation whole volumes.

    Args:
        reader: Finds the volumes below `data_dir`; their truth must be a `VolumeTruth`.
        data_dir: Folder of the data set.
        classes: Name of the class.
        slices: Slices that the network sees at a time, odd: one and its neighbours.
        reference: Whether training items have the slice before beside them, for learning who is who.
        every_slice: Train on every k-th annotated slice of a volume.
        image_size: Side, or (height, width), in pixels to which slices are resized, None for their own size.
        voxel_size: Micrometres of a voxel along z, y and x, None when unknown.
        window: Percentiles of the values of each volume that become black and white.
        allow_absent: Of no effect: there is one class.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    gives = frozenset({"image", "volume"})
    windows_each = True

    def __init__(
        self,
        *,
        reader: Reader,
        data_dir: str,
        classes: Sequence[str] = (),
        slices: int = 3,
        reference: bool = False,
        every_slice: int = 1,
        image_size: int | Sequence[int] | None = None,
        voxel_size: Sequence[float] | None = None,
        window: Sequence[float] = PERCENTILES,
        allow_absent: bool = False,
    ) -> None:
        if not whole_number("data.slices", slices, least=1) % 2:
            raise UserError(
                f"data.slices={slices} is not valid; it must be odd, a slice and as many on either side, "
                f"e.g. {slices + 1}."
            )
        self.image_size = None if image_size is None else parse_image_size(image_size)
        self.voxel_size = parse_voxel_size(voxel_size)
        self.window = check_percentiles("data.window", window)
        self.slicing = Slicing(
            slices=slices,
            every=whole_number("data.every_slice", every_slice, least=1),
            image_size=self.image_size,
            reference=reference,
        )
        self._shapes: dict[str, Shape] = {}
        self._bits: set[int] = set()
        super().__init__(
            reader=reader, data_dir=data_dir, classes=classes, crowd=None, allow_absent=allow_absent
        )

    def look(self, records: Sequence[Record], memory: FileMemory) -> None:
        """Look at the headers of all files, see `Samples.look`."""
        self.records = list(records)
        looks = memory.facts(
            "volumes",
            self.records,
            name=lambda record: str(record.image_path),
            stamp=lambda record: f"{file_key(record.image_path)}|{volume_truth(record).content_key()}",
            look=_look_at,
        )
        for record, found in zip(self.records, looks, strict=True):
            if isinstance(found, UserError):
                raise found
            depth, height, width, bits = (int(str(value)) for value in found)
            self._shapes[record.id] = depth, height, width
            self._bits.add(bits)

    def description(self) -> str:
        """Return one line: volumes, their sizes and bits, annotated slices."""
        shapes = [self._shapes[record.id] for record in self.records]
        sizes = sorted(set(shapes))
        shown = " to ".join(" x ".join(map(str, size)) for size in dict.fromkeys((sizes[0], sizes[-1])))
        annotated = sum(
            int(volume_truth(record).annotated(shape[0]).sum())
            for record, shape in zip(self.records, shapes, strict=True)
        )
        return (
            f"{len(shapes)} volumes of {shown} voxels (z, y, x), "
            f"{' and '.join(map(str, sorted(self._bits)))} bits, {annotated} of "
            f"{sum(shape[0] for shape in shapes)} slices annotated"
        )

    def check_truth(self, subsets: Mapping[str, Sequence[Record]]) -> None:
        """Stop when no volume of a subset holds an object, see `Samples.check_truth`."""
        for name, records in subsets.items():
            # Nearly always there is one in the first volume, so that no other one is decoded.
            if not any(read_ahead(lambda record: volume_truth(record).has_objects(), records)):
                raise UserError(
                    f"none of the {len(records)} {name} volumes of {self.data_dir} holds an object: all "
                    f"labels are 0, e.g. in {volume_truth(records[0]).path}; check the truth, or choose the "
                    "subsets otherwise (data.split_file)."
                )

    def dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> FrameDataset:
        """Return whole volumes, see `FrameDataset`; they are not augmented."""
        return FrameDataset(records, self._shapes_of(records), cache=self._cache(cache_dir))

    def training_dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> SliceDataset:
        """Return slices, see `SliceDataset`."""
        return SliceDataset(
            records,
            self._shapes_of(records),
            cache=self._cache(cache_dir),
            slicing=self.slicing,
            augmentation=augmentation,
            seed=seed,
        )

    collate = staticmethod(collate)

    def original(self, record: Record, subset: str) -> OriginalSample:
        """Return a volume as one picture: its middle annotated slice; the objects are those of all slices."""
        stack, truth = open_stack(record.image_path), volume_truth(record)
        places = np.flatnonzero(truth.annotated(stack.shape[0]))
        z = int(places[len(places) // 2])
        image = windowed(stack.read(z), *stack.window(self.window))
        mask = np.zeros(image.shape, np.uint8)
        found = np.zeros(2**16, bool)
        for place, labels in enumerate(truth.pages(stack.shape)):
            found[labels] = True
            if place == z:
                mask = (labels > 0).astype(np.uint8)
        number = int(found[1:].sum())
        return OriginalSample(
            id=record.id,
            image=_three_channels(image),
            mask=mask,
            class_names=[self.classes[0]] * number,
            subset=subset,
            num_objects=number,
        )

    def titled(self, item: dict[str, Any], title: str) -> TitledSample:
        """Return the middle slice and the objects of a training item; numbers tint each on its own."""
        image = item["image"][..., item["image"].shape[-1] // 2]
        mask = np.zeros(image.shape, np.uint8)
        for number, one in zip(item["target"]["numbers"], item["target"]["masks"], strict=True):
            mask[one > 0] = 1 + number % 7
        return TitledSample(title, _three_channels(image), mask)

    def _shapes_of(self, records: Sequence[Record]) -> list[Shape]:
        return [self._shapes[record.id] for record in records]

    def _cache(self, folder: Path | None) -> VolumeCache:
        cache = VolumeCache(folder, image_size=self.image_size, percentiles=self.window)
        # All of the data set at once: what is wrong with a test volume is said before the training.
        cache.fill(self.records, self._shapes_of(self.records))
        return cache


def _look_at(record: Record) -> Sequence[object]:
    """Return (Z, H, W) and bits of a volume whose truth has the same shape."""
    stack = open_stack(record.image_path)
    volume_truth(record).check_shape(stack.shape)
    return [*stack.shape, stack.bits]


def _three_channels(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=-1)
