"""What is known about an image beside its pixels: one mask, or single objects."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from polymask.data.cache import file_key, file_status
from polymask.data.mask_values import NONZERO, MaskRule
from polymask.errors import UserError
from polymask.structures.layers import Layers
from polymask.structures.masks import IGNORE


@dataclass(frozen=True)
class Truth(ABC):
    """What is known about one image beside its pixels; nothing is decoded before it is asked for.

    Attributes:
        path: The file or folder that says it.
        gives: What can be read: `mask`, and `objects` where these are told apart.
        image_number: The image's own id in an annotation file, None where there is none.
        category_ids: The annotation file's id of each class, empty where there is none.
    """

    path: Path
    image_number: int | str | None = field(default=None, kw_only=True)
    category_ids: tuple[int, ...] = field(default=(), kw_only=True)
    gives: ClassVar[frozenset[str]] = frozenset({"mask"})

    @property
    def mask_file(self) -> Path | None:
        """Return the image file that a `MaskRule` reads; None where the mask is drawn from objects."""
        return None

    def read_by(self, rule: MaskRule) -> Truth:
        """Return the same truth with another rule for the values of its mask file, if it has one."""
        return self

    @property
    def labels(self) -> frozenset[int] | None:
        """Return the classes of the objects, -1 alone where there is none; None where nothing tells."""
        return None

    @property
    def num_objects(self) -> int | None:
        """Return the number of objects without crowd regions, None where only decoding tells."""
        return None

    @property
    def num_crowds(self) -> int:
        """Return the number of crowd regions."""
        return 0

    @property
    def foreground(self) -> float | None:
        """Return the share of the image that objects cover, None where only decoding tells."""
        return None

    @abstractmethod
    def read_mask(self) -> np.ndarray:
        """Decode the mask.

        Returns:
            (H, W) uint8 with 0 = background, 1 = foreground, 255 = ignore.

        Raises:
            UserError: A file is missing or is no readable image.
        """

    @abstractmethod
    def read_class_mask(self, label: int) -> np.ndarray:
        """Decode the mask with the class of each pixel.

        Args:
            label: Class of the image, -1 when it is unknown.

        Returns:
            (H, W) uint8 with 0 = background, 1 + class index, 255 = ignore.

        Raises:
            UserError: A file is missing or is no readable image.
        """

    def read_objects(self, image_size: tuple[int, int] | None = None) -> Layers:
        """Decode the objects.

        Args:
            image_size: (height, width) of the decoded image, which the objects must have too; None when it
                is not known.

        Raises:
            UserError: A file cannot be read, the sizes differ, or objects are not told apart.
        """
        raise UserError(f"{self.path} is one mask, in which objects are not told apart.")

    @abstractmethod
    def check(self, image_size: tuple[int, int]) -> None:
        """Look at the files as far as headers tell, without decoding.

        Args:
            image_size: (height, width) of the image.

        Raises:
            UserError: A file is missing, cut off or holds several pages, or sizes differ.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that is the same wherever the same files lie."""

    @abstractmethod
    def content_key(self) -> str:
        """Return a text that changes when the annotation, or how it is read, does.

        Raises:
            UserError: A file is not there.
        """


@dataclass(frozen=True)
class MaskFile(Truth):
    """An image file that is the mask.

    Attributes:
        rule: What its values mean; the data set decides it from all masks.
    """

    rule: MaskRule = NONZERO

    @property
    def mask_file(self) -> Path:
        """Return the file."""
        return self.path

    def read_by(self, rule: MaskRule) -> MaskFile:
        """Return the same file with another rule."""
        return dataclasses.replace(self, rule=rule)

    def read_mask(self) -> np.ndarray:
        """Decode the mask."""
        return self.rule.read(self.path)

    def read_class_mask(self, label: int) -> np.ndarray:
        """Decode the mask: the foreground is of the image's class, and ignored where that is unknown."""
        mask = self.read_mask()
        return np.where(mask == 1, np.uint8(IGNORE if label < 0 else label + 1), mask)

    def check(self, image_size: tuple[int, int]) -> None:
        """Do nothing: all mask files of a set are decoded once, and compared with their images then."""

    def fingerprint(self) -> str:
        """Return the size of the file in bytes."""
        return str(file_status(self.path).st_size)

    def content_key(self) -> str:
        """Return a text that changes when the file or the rule does."""
        return f"{file_key(self.path)}|{self.rule.key()}"


@dataclass(frozen=True)
class ObjectTruth(Truth):
    """The objects of one image; its masks are drawn from them.

    Attributes:
        image_path: The image.
    """

    image_path: Path
    gives: ClassVar[frozenset[str]] = frozenset({"mask", "objects"})

    def read_mask(self) -> np.ndarray:
        """Decode the union of the objects, see `Layers.union_mask`."""
        return self.read_objects().union_mask()

    def read_class_mask(self, label: int) -> np.ndarray:
        """Decode the classes of the objects, see `Layers.class_mask`; that of the image does not count."""
        return self.read_objects().class_mask()

    @abstractmethod
    def read_objects(self, image_size: tuple[int, int] | None = None) -> Layers:
        """Decode the objects, see `Truth.read_objects`."""
