"""What all writers of data sets share: images, and the account of what a layout cannot hold."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from polymask.data.records import Record
from polymask.structures.layers import Layers

CROWDS = "crowd regions: {} (only COCO has them; crowd=objects takes each as an object)"


def _link(source: Path, target: Path) -> None:
    os.symlink(source.resolve(), target)


def _leave_out(source: Path, target: Path) -> None:
    """Do nothing: the user puts the images there."""


IMAGES: dict[str, Callable[[Path, Path], object]] = {
    "copy": shutil.copyfile,
    "link": _link,
    "none": _leave_out,
}
"""What is done with the images: copied, linked to where they lie, or left out."""


class Target(ABC):
    """Writes a data set image by image, so that memory does not grow with the data.

    Args:
        folder: Where to write; it is empty.
        class_names: Names of the classes.

    Attributes:
        lost: How often something was met that the layout cannot hold, by a sentence with `{}` for the number.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder, self.class_names = folder, list(class_names)
        self.lost: Counter[str] = Counter()

    @abstractmethod
    def add(self, record: Record, objects: Layers) -> None:
        """Take the objects of one image.

        Args:
            record: The image.
            objects: Its objects, upright and of the size of the image.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write what is known only after the last image."""

    def losses(self) -> list[str]:
        """Return what was not kept, as text."""
        return [sentence.format(count) for sentence, count in self.lost.items() if count]

    def image_path(self, record: Record) -> Path:
        """Return where an image belongs: under its id, since names alone may repeat in other folders."""
        return self.folder / "images" / f"{record.id}{record.image_path.suffix.lower()}"
