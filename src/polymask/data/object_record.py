"""The record of an image with many objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from polymask.data.records import Record
from polymask.structures.layers import Instances


@dataclass(frozen=True, kw_only=True)
class InstanceRecord(Record, ABC):
    """One image with objects on disk; `label` is its most frequent class, -1 when it is known to have none.

    Attributes:
        image_number: The image's own id in its annotation file, None where there is none.
        category_ids: The annotation file's id of each class, empty where there is none.
    """

    image_number: int | str | None = None
    category_ids: tuple[int, ...] = ()

    @property
    def mask_file(self) -> None:
        """Return None: the mask is drawn from the objects."""
        return None

    @property
    def has_mask(self) -> bool:
        """Return True: the objects are known, even if there are none."""
        return True

    @property
    def num_objects(self) -> int | None:
        """Return the number of objects without crowd regions, None where only decoding tells."""
        return None

    @property
    def foreground(self) -> float | None:
        """Return the share of the image that objects cover, None where only decoding tells."""
        return None

    @property
    def num_crowds(self) -> int:
        """Return the number of crowd regions."""
        return 0

    @abstractmethod
    def read_instances(self, image_size: tuple[int, int] | None = None) -> Instances:
        """Decode the objects.

        Args:
            image_size: (height, width) of the decoded image, which the objects must have too; None when it
                is not known.

        Raises:
            UserError: A file cannot be read, or the sizes differ.
        """

    @abstractmethod
    def check_files(self) -> None:
        """Look at image and objects as far as headers tell, without decoding.

        Raises:
            UserError: A file is missing, cut off or holds several pages, or sizes differ.
        """

    def read_mask(self) -> np.ndarray:
        """Decode the union of the objects, see `Instances.union_mask`."""
        return self.read_instances().union_mask()

    def read_class_mask(self) -> np.ndarray:
        """Decode the classes of the objects, see `Instances.class_mask`."""
        return self.read_instances().class_mask()
