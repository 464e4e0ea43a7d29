"""What the samples of one data set are, and how each becomes an item: all that a family says of its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch.utils.data import Dataset

from polymask.data.inspection import FileMemory
from polymask.data.records import Reader, Record
from polymask.errors import UserError
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.utils.paths import resolve

if TYPE_CHECKING:
    from polymask.data.transforms import Augmentation  # its library takes a second


class Samples(ABC):
    """The samples of one data set.

    Attributes:
        gives: What a task can learn from, in the words of `polymask.structures.gives`.
        image_size: (height, width) of all images of a batch in pixels, None when they keep their own sizes.
        pixel_size: (height, width) of a pixel in micrometres, None when it is not known or does not matter.
        data_dir: Folder of the data set.
        classes: Class names; their order is the order of all outputs. Empty for data with masks only.
        records: One per sample; `look` replaces them.
        windows_each: Whether each image becomes 8 bits by its own values, rather than by one range for all.

    Args:
        reader: Finds the samples below `data_dir`.
        data_dir: Folder of the data set.
        classes: Class names, see `Reader`.
        crowd: Handed to the reader when given: what crowd regions are, see `read_coco`.
        allow_absent: Whether the data set may lack some of `classes`: true for a test and for an analysis.

    Raises:
        UserError: A class is named twice, or the data set is not as its layout says.
    """

    gives: ClassVar[frozenset[str]]
    image_size: tuple[int, int] | None = None
    pixel_size: tuple[float, float] | None = None
    windows_each: ClassVar[bool] = False

    def __init__(
        self, *, reader: Reader, data_dir: str, classes: Sequence[str], crowd: str | None, allow_absent: bool
    ) -> None:
        names = [str(name) for name in classes]
        if len(set(names)) != len(names):
            raise UserError(f"data.classes={names} must be a list of different names, e.g. [MEL,NV,BKL].")
        self.data_dir = resolve(data_dir)
        # Said only where it matters: most layouts know no crowds.
        options: dict[str, Any] = {} if crowd is None else {"crowd": crowd}
        self.records, self.classes = reader(
            self.data_dir, classes=names, allow_absent=allow_absent, **options
        )

    @abstractmethod
    def look(self, records: Sequence[Record], memory: FileMemory) -> None:
        """Look into the files of all samples, and keep the records as these are to be read.

        Args:
            records: The samples, with the intensities of their images.
            memory: What is known of the files from before.

        Raises:
            UserError: A file is not sound, or the files of a sample do not fit together.
        """

    @abstractmethod
    def description(self) -> str:
        """Return one line on what was found: sizes, values, foreground."""

    @abstractmethod
    def check_truth(self, subsets: Mapping[str, Sequence[Record]]) -> None:
        """Stop when the masks or objects of a subset teach nothing.

        Args:
            subsets: The samples of each subset that is not empty.

        Raises:
            UserError: There is such a subset.
        """

    @abstractmethod
    def dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> Dataset[dict[str, Any]]:
        """Return the items of some samples, by keys (epoch, index, repeat).

        Args:
            records: The samples.
            augmentation: Applied to each item, None for evaluation.
            cache_dir: Folder for decoded samples, None to decode each time.
            seed: Seed of the augmentation.

        Raises:
            UserError: The augmentation does not keep what an item must be, or the folder cannot be used.
        """

    def training_dataset(
        self,
        records: Sequence[Record],
        *,
        augmentation: Augmentation | None,
        cache_dir: Path | None,
        seed: int,
    ) -> Dataset[dict[str, Any]]:
        """Return the items of some samples in training, see `dataset`: there may be several of a sample."""
        return self.dataset(records, augmentation=augmentation, cache_dir=cache_dir, seed=seed)

    @staticmethod
    @abstractmethod
    def collate(items: list[dict[str, Any]], /) -> dict[str, Any]:
        """Return the batch of some items."""

    @abstractmethod
    def original(self, record: Record, subset: str) -> OriginalSample:
        """Return a sample of a subset as it is on disk."""

    @abstractmethod
    def titled(self, item: dict[str, Any], title: str) -> TitledSample:
        """Return an item as a picture."""
