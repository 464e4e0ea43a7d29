"""Images with one mask and one class each: lesions, or the union of all objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from polymask.data.facts import Foreground
from polymask.data.mask_checks import ORIENTATIONS, MaskedImages
from polymask.data.mask_values import check_option
from polymask.data.module import DataModule, class_name_list
from polymask.data.records import Record
from polymask.data.transforms import Augmentation
from polymask.errors import UserError, choose
from polymask.families.multitask.dataset import ImageMaskDataset, collate, read_original
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.utils.paths import resolve

SEGMENTATIONS = ("binary", "multiclass")


class RecordReader(Protocol):
    """Finds the samples of one on-disk layout."""

    def __call__(self, data_dir: Path, classes: Sequence[str], *, allow_absent: bool = False) -> list[Record]:
        """Return one record per image; `allow_absent`: the data set may lack some of `classes`."""


class ImageMaskData(DataModule[Record]):
    """A data set of images with a mask and a class label each.

    Args:
        reader: Finds the samples below `data_dir`, see `RecordReader`.
        data_dir: Folder of the data set.
        classes: Class names; their order is the order of all outputs. Empty for data with masks only.
        image_size: Side of the network's input in pixels, or (height, width).
        segmentation: `binary` (1 = lesion) or `multiclass` (1 + class index).
        mask_values: Which values of mask files are foreground: `auto` decides it from all of them, `nonzero`,
            `half` (above half of the largest), or a list of values.
        mask_orientation: `same`: a mask and its image must have one EXIF orientation; `own`: each file is
            turned as its own says.
        allow_absent: Whether the data set may lack some of `classes`.
        **options: See `DataModule`.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    samples = "images with one mask or class"
    gives = frozenset({"image", "mask", "label"})
    full_masks_allowed = False

    def __init__(
        self,
        *,
        reader: RecordReader,
        data_dir: str,
        classes: Sequence[str],
        image_size: int | Sequence[int],
        segmentation: str = "binary",
        mask_values: str | int | Sequence[int] = "auto",
        mask_orientation: str = "same",
        allow_absent: bool = False,
        **options: Any,
    ) -> None:
        self.segmentation = choose("data.segmentation", segmentation, SEGMENTATIONS)
        self.image_size = parse_image_size(image_size)
        names = class_name_list(classes)
        if not names and segmentation == "multiclass":
            raise UserError(
                "data.segmentation=multiclass needs classes, but data.classes=[] names none; use "
                "data.segmentation=binary."
            )
        check_option(mask_values)
        choose("data.mask_orientation", mask_orientation, ORIENTATIONS)
        folder = resolve(data_dir)
        # A reader of one's own need not know of it.
        known = "allow_absent" in inspect.signature(reader).parameters
        absent = {"allow_absent": allow_absent} if known else {}
        super().__init__(
            records=reader(data_dir=folder, classes=names, **absent),
            data_dir=folder,
            classes=names,
            allow_absent=allow_absent,
            **options,
        )
        self._files = MaskedImages(
            self.records,
            where=folder,
            memory=self.memory,
            mask_values=mask_values,
            mask_orientation=mask_orientation,
        )
        self.records = self._files.records

    def description(self) -> str:
        """Return one line on sizes, bits, orientation, mask values, foreground and empty masks."""
        return self._files.description()

    def foregrounds(self) -> dict[str, Foreground]:
        """Return the foreground of each sample that has a mask, by id.

        Raises:
            UserError: What the values of the masks mean is ambiguous.
        """
        if self._files.doubt is not None:
            raise self._files.doubt
        return self._files.foregrounds

    def _dataset(
        self, records: list[Record], augmentation: Augmentation | None, *, cache_dir: Path | None
    ) -> ImageMaskDataset:
        return ImageMaskDataset(
            records,
            image_size=self.image_size,
            multiclass=self.segmentation == "multiclass",
            augmentation=augmentation,
            cache_dir=cache_dir,
            # One cache for the whole data set: folds and other splits find their samples decoded.
            cache_records=self.records,
            seed=self._seed,
        )

    @property
    def _collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return collate

    def _original(self, record: Record, subset: str) -> OriginalSample:
        image, mask = read_original(record)
        names = self.classes[record.label : record.label + 1] if record.label >= 0 else []
        return OriginalSample(id=record.id, image=image, mask=mask, class_names=names, subset=subset)

    def _titled(self, item: dict[str, Any], title: str) -> TitledSample:
        return TitledSample(title, item["image"], item["mask"])


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
