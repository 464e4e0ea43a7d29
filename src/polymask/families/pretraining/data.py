"""Images of which nothing else is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.data import samples
from polymask.data.facts import ImageFacts
from polymask.data.images import parse_image_size
from polymask.data.inspection import FileMemory, image_facts
from polymask.data.mask_checks import describe_images
from polymask.data.object_checks import check_files
from polymask.data.records import Reader, Record
from polymask.data.transforms import Augmentation
from polymask.families.pretraining.dataset import ImageDataset, collate
from polymask.structures.samples import OriginalSample, TitledSample


class Samples(samples.Samples):
    """Images alone, decoded at one size and handed out at another, smaller one.

    Args:
        reader: Finds the images below `data_dir`.
        data_dir: Folder of the data set.
        image_size: Side, or (height, width), in pixels at which images are decoded and cached. Above
            `input_size`, so that what a crop enlarges still is sharp.
        input_size: Likewise, of the images of a batch: what the network takes.
        allow_absent: Of no effect: there are no classes.

    Raises:
        UserError: An argument is out of range, or there are no images.
    """

    gives = frozenset({"image"})
    image_size: tuple[int, int]

    def __init__(
        self,
        *,
        reader: Reader,
        data_dir: str,
        image_size: int | Sequence[int],
        input_size: int | Sequence[int],
        allow_absent: bool = False,
    ) -> None:
        self._decoded_size = parse_image_size(image_size)
        self.image_size = parse_image_size(input_size, key="data.input_size")
        super().__init__(reader=reader, data_dir=data_dir, classes=[], crowd=None, allow_absent=allow_absent)

    def look(self, records: Sequence[Record], memory: FileMemory) -> None:
        """Look at the headers of all files, see `Samples.look`."""
        self.records = list(records)
        found = image_facts([record.image_path for record in records], memory)
        check_files(records, found)
        self._images = [facts for facts in found if isinstance(facts, ImageFacts)]

    def description(self) -> str:
        """Return one line on sizes, bits and orientation."""
        turned = sum(facts.orientation != 1 for facts in self._images)
        words = f", {turned:,} images turned as their EXIF orientation says" if turned else ""
        return f"{describe_images(self._images)}{words}"

    def check_truth(self, subsets: Mapping[str, Sequence[Record]]) -> None:
        """Do nothing: nothing is known beside the images."""

    def dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> ImageDataset:
        """Return the items of some samples, see `ImageDataset`."""
        return ImageDataset(
            records,
            decoded_size=self._decoded_size,
            image_size=self.image_size,
            augmentation=augmentation,
            cache_dir=cache_dir,
            # One cache for the whole data set: folds and other splits find their samples decoded.
            cache_records=self.records,
            seed=seed,
        )

    collate = staticmethod(collate)

    def original(self, record: Record, subset: str) -> OriginalSample:
        """Return an image as it is on disk."""
        return OriginalSample(
            id=record.id, image=record.read_image(), mask=None, class_names=[], subset=subset
        )

    def titled(self, item: dict[str, Any], title: str) -> TitledSample:
        """Return the image of an item."""
        return TitledSample(title, item["image"], None)
