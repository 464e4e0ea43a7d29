"""Images with one mask and one class each; the mask may be the union of objects, or their classes.

So networks for whole masks learn from the very data sets, splits and folds of those for single objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.data import samples
from polymask.data.facts import ImageFacts
from polymask.data.images import FITS, parse_image_size
from polymask.data.inspection import FileMemory
from polymask.data.mask_checks import ORIENTATIONS, MaskedImages
from polymask.data.mask_values import check_option
from polymask.data.object_checks import check_files, check_subsets, describe
from polymask.data.records import Reader, Record
from polymask.data.transforms import Augmentation
from polymask.errors import UserError, choose
from polymask.families.multitask.dataset import ImageMaskDataset, collate, read_original
from polymask.families.multitask.family import SEGMENTATIONS
from polymask.families.multitask.original_size import parse_pixel_size
from polymask.structures.samples import OriginalSample, TitledSample


class Samples(samples.Samples):
    """Images of one size with a mask and a class label each.

    Args:
        reader: Finds the samples below `data_dir`; where it tells objects apart, masks are drawn from them.
        data_dir: Folder of the data set.
        classes: Class names; their order is the order of all outputs. Empty for data with masks only.
        image_size: Side of the network's input in pixels, or (height, width).
        fit: How images get that size: `stretch`, or `letterbox`: their aspect is kept, and padding counts
            nowhere.
        pixel_size: Side of a pixel in micrometres, or (height, width), None when unknown: then distances are
            measured in pixels.
        segmentation: `binary` (1 = foreground) or `multiclass` (1 + class index).
        mask_values: Which values of mask files are foreground: `auto` decides it from all of them, `nonzero`,
            `half` (above half of the largest), or a list of values.
        mask_orientation: `same`: a mask and its image must have one EXIF orientation; `own`: each file is
            turned as its own says.
        crowd: Handed to the reader when given: what crowd regions are, see `read_coco`.
        allow_absent: Whether the data set may lack some of `classes`.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    gives = frozenset({"image", "mask", "label"})
    image_size: tuple[int, int]

    def __init__(
        self,
        *,
        reader: Reader,
        data_dir: str,
        classes: Sequence[str],
        image_size: int | Sequence[int],
        fit: str = "stretch",
        pixel_size: float | Sequence[float] | None = None,
        segmentation: str = "binary",
        mask_values: str | int | Sequence[int] = "auto",
        mask_orientation: str = "same",
        crowd: str | None = None,
        allow_absent: bool = False,
    ) -> None:
        self.segmentation = choose("data.segmentation", segmentation, SEGMENTATIONS)
        self.image_size, self.fit = parse_image_size(image_size), choose("data.fit", fit, FITS)
        self.pixel_size = parse_pixel_size(pixel_size)
        if not classes and segmentation == "multiclass":
            raise UserError(
                "data.segmentation=multiclass needs classes, but data.classes=[] names none; use "
                "data.segmentation=binary."
            )
        check_option(mask_values)
        choose("data.mask_orientation", mask_orientation, ORIENTATIONS)
        self._mask_values, self._mask_orientation = mask_values, mask_orientation
        super().__init__(
            reader=reader, data_dir=data_dir, classes=classes, crowd=crowd, allow_absent=allow_absent
        )
        # Without names the masks alone are learned, whatever classes the objects have.
        self.classes = [str(name) for name in classes]

    def look(self, records: Sequence[Record], memory: FileMemory) -> None:
        """Look into all files and decide how mask files are read, see `Samples.look`."""
        self._files = MaskedImages(
            records,
            where=self.data_dir,
            memory=memory,
            mask_values=self._mask_values,
            mask_orientation=self._mask_orientation,
        )
        self.records = self._files.records
        self._sizes = {
            record.id: (facts.height, facts.width)
            for record, facts in zip(self.records, self._files.images, strict=True)
            if isinstance(facts, ImageFacts)
        }
        if self._tell_objects_apart:
            check_files(self.records, self._files.images)

    def description(self) -> str:
        """Return one line on objects if there are any, images, mask values, foreground and empty masks."""
        objects = f"{describe(self.records)}; " if self._tell_objects_apart else ""
        return objects + self._files.description()

    def check_truth(self, subsets: Mapping[str, Sequence[Record]]) -> None:
        """Stop when the masks of a subset are all empty or all full, see `Samples.check_truth`."""
        if self._tell_objects_apart:
            check_subsets(subsets, self.data_dir)
        for name, records in subsets.items():
            self._files.check(name, records)

    def dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> ImageMaskDataset:
        """Return the items of some samples, see `ImageMaskDataset`."""
        return ImageMaskDataset(
            records,
            image_size=self.image_size,
            fit=self.fit,
            multiclass=self.segmentation == "multiclass",
            augmentation=augmentation,
            cache_dir=cache_dir,
            # One cache for the whole data set: folds and other splits find their samples decoded.
            cache_records=self.records,
            sizes=self._sizes if augmentation is None else None,
            seed=seed,
        )

    collate = staticmethod(collate)

    def original(self, record: Record, subset: str) -> OriginalSample:
        """Return image, binary mask and class name of a sample as they are on disk."""
        image, mask = read_original(record)
        names = self.classes[record.label : record.label + 1] if record.label >= 0 else []
        return OriginalSample(id=record.id, image=image, mask=mask, class_names=names, subset=subset)

    def titled(self, item: dict[str, Any], title: str) -> TitledSample:
        """Return image and mask of an item."""
        return TitledSample(title, item["image"], item["mask"])

    @property
    def _tell_objects_apart(self) -> bool:
        return any(record.has_objects for record in self.records)
