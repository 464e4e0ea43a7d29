"""What a data set reader returns: one record per image, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import numpy as np

from polymask.data.cache import file_key, file_status
from polymask.data.images import read_image
from polymask.data.intensity import EIGHT_BIT, Range
from polymask.data.truth import Truth
from polymask.structures.layers import Layers

_NO_TRUTH = "-|alpha=False above=0 listed=[]"
"""Content key of a sample without truth; caches of decoded samples know it by this text."""


@final
@dataclass(frozen=True, kw_only=True)
class Record:
    """One sample on disk.

    Attributes:
        id: Unique name of the image, also its name in every result.
        image_path: The image file.
        truth: What is known about the image beside its class, None when nothing is.
        label: Index into the class names, -1 when the class is unknown; of objects the most frequent class.
        group: Samples of one group (patient, photograph, sequence) never stand in two subsets.
        subset: `train`, `val` or `test` when the data set itself prescribes it (an official test set),
            None when the split is free to place the sample.
        intensity_range: Values of the image that become black and white, the same in the whole data set.
        mask_hint: Where a mask was looked for in vain, "" when there is one.
        attributes: What a table says of the sample beside its class, such as age and sex, by column in lower
            case; the same columns for all samples of a data set.
    """

    id: str
    image_path: Path
    truth: Truth | None = None
    label: int
    group: str
    subset: str | None = None
    intensity_range: Range = EIGHT_BIT
    mask_hint: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def labels(self) -> frozenset[int]:
        """Return all classes that the sample shows, -1 alone when none is known."""
        shown = None if self.truth is None else self.truth.labels
        return frozenset({self.label}) if shown is None else shown

    @property
    def has_mask(self) -> bool:
        """Return whether a mask can be read: also one of objects of which there are none."""
        return self.truth is not None

    @property
    def has_objects(self) -> bool:
        """Return whether objects are told apart, even if there are none."""
        return self.truth is not None and "objects" in self.truth.gives

    def read_image(self) -> np.ndarray:
        """Decode the image.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UserError: The file is missing or damaged, or its values do not fit `intensity_range`.
        """
        return read_image(self.image_path, self.intensity_range)

    def read_mask(self) -> np.ndarray:
        """Decode the mask of a sample that has one, see `Truth.read_mask`."""
        assert self.truth is not None
        return self.truth.read_mask()

    def read_class_mask(self) -> np.ndarray:
        """Decode the mask with the class of each pixel, see `Truth.read_class_mask`."""
        assert self.truth is not None
        return self.truth.read_class_mask(self.label)

    def read_objects(self, image_size: tuple[int, int] | None = None) -> Layers:
        """Decode the objects of a sample that has some, see `Truth.read_objects`."""
        assert self.truth is not None
        return self.truth.read_objects(image_size)

    def fingerprint(self) -> str:
        """Return a text that is the same wherever the same files lie."""
        truth = "-" if self.truth is None else self.truth.fingerprint()
        return f"{file_status(self.image_path).st_size}|{truth}"

    def content_key(self) -> str:
        """Return a text that changes when the image, its truth or the reading of one of them does.

        Raises:
            UserError: A file is not there.
        """
        truth = _NO_TRUTH if self.truth is None else self.truth.content_key()
        return f"{file_key(self.image_path)}|{self.intensity_range}|{truth}"


class Reader(Protocol):
    """Finds the samples of one layout of files; options of its own are bound before."""

    def __call__(
        self, data_dir: Path, *, classes: Sequence[str], allow_absent: bool
    ) -> tuple[list[Record], list[str]]:
        """Return one record per image and the names of the classes; nothing is decoded.

        Args:
            data_dir: Folder of the data set.
            classes: Names of the classes to use, in the order of their labels; empty for all, or for none
                where the layout has masks only.
            allow_absent: Whether the data set may lack some of `classes`, as in a test on another data set.

        Raises:
            UserError: The files are not as the layout says.
        """
