"""Images with many objects each, at their own sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.data import samples
from polymask.data.facts import ImageFacts
from polymask.data.inspection import FileMemory, image_facts
from polymask.data.mask_checks import ORIENTATIONS, MaskedImages, describe_images
from polymask.data.mask_values import check_option
from polymask.data.object_checks import check_files, check_subsets, describe, foreground_share
from polymask.data.records import Reader, Record
from polymask.data.transforms import Augmentation
from polymask.errors import UserError, choose
from polymask.families.instances.copy_paste import CopyPaste
from polymask.families.instances.dataset import InstanceDataset, collate_instances
from polymask.families.instances.tables import check_pixel_size
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.utils.options import options_of


class Samples(samples.Samples):
    """Images with objects; images keep their sizes.

    Args:
        reader: Finds the samples below `data_dir`; it must tell objects apart.
        data_dir: Folder of the data set.
        classes: Class names; empty for all that the data set has.
        crowd: Handed to the reader when given: what crowd regions are, see `read_coco`.
        pixel_size: Micrometres per pixel, None when unknown; the task takes it for the sizes of objects.
        image_size: Only None: the network resizes by itself, see `model.min_size`.
        mask_values: Where objects are made of mask files: which values are foreground, see `decide`.
        mask_orientation: There: whether mask and image must have one EXIF orientation, see `MaskedImages`.
        copy_paste: Keys of `CopyPaste`: objects of other images on training images. None for none.
        allow_absent: Whether the data set may lack some of `classes`.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    gives = frozenset({"image", "objects"})

    def __init__(
        self,
        *,
        reader: Reader,
        data_dir: str,
        classes: Sequence[str],
        crowd: str | None = None,
        pixel_size: float | None = None,
        image_size: None = None,
        mask_values: str | int | Sequence[int] = "auto",
        mask_orientation: str = "same",
        copy_paste: Mapping[str, Any] | None = None,
        allow_absent: bool = False,
    ) -> None:
        if image_size is not None:
            raise UserError(
                f"data.image_size={image_size} is not for data sets of objects, whose images keep their "
                "sizes; set model.min_size and model.max_size instead."
            )
        check_pixel_size(pixel_size)
        check_option(mask_values)
        choose("data.mask_orientation", mask_orientation, ORIENTATIONS)
        pasting = options_of(CopyPaste, copy_paste, "data.copy_paste")
        self._copy_paste = pasting if pasting.probability else None
        self._mask_values, self._mask_orientation = mask_values, mask_orientation
        self._masks: MaskedImages | None = None
        super().__init__(
            reader=reader, data_dir=data_dir, classes=classes, crowd=crowd, allow_absent=allow_absent
        )
        blind = [record.id for record in self.records if not record.has_objects]
        if blind:
            raise UserError(
                f"{len(blind)} of {len(self.records)} images of {self.data_dir} have no objects that are "
                f"told apart, e.g. {blind[0]!r}; choose a data.reader that finds single objects."
            )

    def look(self, records: Sequence[Record], memory: FileMemory) -> None:
        """Look at the headers of all files, and into mask files, see `Samples.look`."""
        self.records = list(records)
        if any(record.truth and record.truth.mask_file for record in records):
            self._masks = MaskedImages(
                records,
                where=self.data_dir,
                memory=memory,
                mask_values=self._mask_values,
                mask_orientation=self._mask_orientation,
            )
            if self._masks.doubt is not None:
                raise self._masks.doubt
            self.records = self._masks.records
            return
        found = image_facts([record.image_path for record in records], memory)
        check_files(records, found)
        self._images = [facts for facts in found if isinstance(facts, ImageFacts)]

    def description(self) -> str:
        """Return one line: objects, crowd regions and images without objects, and what the images are."""
        if self._masks is not None:
            return f"{describe(self.records)}; {self._masks.description()}"
        turned = sum(facts.orientation != 1 for facts in self._images)
        words = f", {turned:,} images turned as their EXIF orientation says" if turned else ""
        share = f"{foreground_share(self.records):.1%} foreground"
        return f"{describe(self.records)}, {share}; {describe_images(self._images)}{words}"

    def check_truth(self, subsets: Mapping[str, Sequence[Record]]) -> None:
        """Stop when no image of a subset holds an object, see `Samples.check_truth`."""
        check_subsets(subsets, self.data_dir)

    def dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> InstanceDataset:
        """Return the items of some samples, see `InstanceDataset`."""
        return InstanceDataset(records, augmentation=augmentation, cache_dir=cache_dir, seed=seed)

    def training_dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> InstanceDataset:
        """Return the items of some samples in training, with objects of others on them where that is asked.

        Without augmentation nothing is pasted either.
        """
        return InstanceDataset(
            records,
            augmentation=augmentation,
            copy_paste=None if augmentation is None else self._copy_paste,
            cache_dir=cache_dir,
            seed=seed,
        )

    collate = staticmethod(collate_instances)

    def original(self, record: Record, subset: str) -> OriginalSample:
        """Return image, union of the objects and class name of each object of a sample."""
        image = record.read_image()
        objects = record.read_objects((image.shape[0], image.shape[1]))
        labels = objects.labels[~objects.crowd].tolist()
        return OriginalSample(
            id=record.id,
            image=image,
            mask=(objects.union_mask() == 1).astype("uint8"),
            class_names=[self.classes[label] for label in labels],
            subset=subset,
            num_objects=len(labels),
        )

    def titled(self, item: dict[str, Any], title: str) -> TitledSample:
        """Return image and objects of an item; their numbers in the mask tint each on its own."""
        mask = item["image"][..., 0] * 0
        for index, one in enumerate(item["target"]["masks"]):
            mask[one > 0] = 1 + index % 9
        return TitledSample(title, item["image"], mask)
