"""Images with many objects each, at their own sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from polymask.data.facts import ImageFacts
from polymask.data.inspection import image_facts
from polymask.data.mask_checks import describe_images
from polymask.data.module import DataModule, class_name_list
from polymask.data.object_checks import check_files, check_subsets, describe, foreground_share
from polymask.data.object_record import InstanceRecord
from polymask.data.splits.split import SUBSETS
from polymask.data.transforms import Augmentation
from polymask.errors import UserError, number
from polymask.families.instances.dataset import InstanceDataset, collate_instances
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.utils.paths import resolve


class InstanceReader(Protocol):
    """Finds the samples of one on-disk layout."""

    def __call__(
        self, data_dir: Path, classes: Sequence[str], *, allow_absent: bool = False
    ) -> tuple[Sequence[InstanceRecord], list[str]]:
        """Return one record per image, and the names of the classes (the given ones, if any).

        `allow_absent`: the data set may lack some of `classes`.
        """


class InstanceData(DataModule[InstanceRecord]):
    """A data set of images with objects. Images keep their sizes, so `image_size` is None.

    Args:
        reader: Finds the samples below `data_dir`, see `InstanceReader`.
        data_dir: Folder of the data set.
        classes: Class names; empty for all that the data set has.
        crowd: Handed to the reader when given: what crowd regions are, see `coco.read_records`.
        pixel_size: Micrometres per pixel, None when unknown; sizes of objects are then in pixels only.
        image_size: Only None: the network resizes by itself, see `model.min_size`.
        allow_absent: Whether the data set may lack some of `classes`.
        **options: See `DataModule`.

    Raises:
        UserError: An argument is out of range, or the data set is not as its layout says.
    """

    samples = "images with objects"
    gives = frozenset({"image", "objects"})
    image_size: None = None

    def __init__(
        self,
        *,
        reader: InstanceReader,
        data_dir: str,
        classes: Sequence[str],
        crowd: str | None = None,
        pixel_size: float | None = None,
        image_size: None = None,
        allow_absent: bool = False,
        **options: Any,
    ) -> None:
        if image_size is not None:
            raise UserError(
                f"data.image_size={image_size} is not for data sets of objects, whose images keep their "
                "sizes; set model.min_size and model.max_size instead."
            )
        self.pixel_size = check_pixel_size(pixel_size)
        folder = resolve(data_dir)
        # Said only where it matters, so that a reader of one's own need not know of it.
        chosen: dict[str, Any] = {} if crowd is None else {"crowd": crowd}
        if allow_absent:
            chosen["allow_absent"] = True
        records, names = reader(data_dir=folder, classes=class_name_list(classes), **chosen)
        check_files(records)
        super().__init__(
            records=records, data_dir=folder, classes=names, allow_absent=allow_absent, **options
        )

    def description(self) -> str:
        """Return one line: objects, crowd regions and images without objects, and what the images are."""
        found = image_facts([record.image_path for record in self.records], self.memory)
        images = [facts for facts in found if isinstance(facts, ImageFacts)]
        turned = sum(facts.orientation != 1 for facts in images)
        words = f", {turned:,} images turned as their EXIF orientation says" if turned else ""
        share = f"{foreground_share(self.records):.1%} foreground"
        return f"{describe(self.records)}, {share}; {describe_images(images)}{words}"

    def check_masks(self, subsets: Sequence[str] = SUBSETS) -> None:
        """Stop when no image of a subset holds an object.

        Raises:
            UserError: There is such a subset, or annotations cannot be read.
        """
        check_subsets(self.records, {name: self.split.subsets[name] for name in subsets}, self.data_dir)

    def _dataset(
        self, records: list[InstanceRecord], augmentation: Augmentation | None, *, cache_dir: Path | None
    ) -> InstanceDataset:
        return InstanceDataset(records, augmentation=augmentation, cache_dir=cache_dir, seed=self._seed)

    @property
    def _collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return collate_instances

    def _original(self, record: InstanceRecord, subset: str) -> OriginalSample:
        image = record.read_image()
        instances = record.read_instances((image.shape[0], image.shape[1]))
        labels = instances.labels[~instances.crowd].tolist()
        return OriginalSample(
            id=record.id,
            image=image,
            mask=(instances.union_mask() == 1).astype("uint8"),
            class_names=[self.classes[label] for label in labels],
            subset=subset,
            num_objects=len(labels),
        )

    def _titled(self, item: dict[str, Any], title: str) -> TitledSample:
        target = item["target"]
        # Numbers of the objects, so that each is tinted on its own.
        mask = item["image"][..., 0] * 0
        for index, one in enumerate(target["masks"]):
            mask[one > 0] = 1 + index % 9
        return TitledSample(title, item["image"], mask)


def check_pixel_size(value: float | None) -> float | None:
    """Return micrometres per pixel, None when unknown.

    Raises:
        UserError: Not a number above 0.
    """
    if value is None:
        return None
    return number("data.pixel_size", value, above=0, what="micrometres per pixel", note="or null")
