"""What a data set reader returns: one record per image, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polymask.data.cache import file_key, file_status
from polymask.data.images import read_image
from polymask.data.intensity import EIGHT_BIT, Range
from polymask.data.mask_values import NONZERO, MaskRule
from polymask.structures.masks import IGNORE


@dataclass(frozen=True, kw_only=True)
class Record:
    """One sample on disk.

    Attributes:
        id: Unique name of the image, also its name in every result.
        image_path: The image file.
        mask_path: The mask file, None when the sample has no mask.
        label: Index into the class names, -1 when the class is unknown.
        group: Samples of one group (lesion, patient, sequence) never stand in two subsets.
        subset: `train`, `val` or `test` when the data set itself prescribes it (an official test set),
            None when the split is free to place the sample.
        intensity_range: Values of the image that become black and white, the same in the whole data set.
        mask_rule: What the values of the mask file mean; the data set decides it from all masks.
        mask_hint: Where a mask was looked for in vain, "" when there is one.
    """

    id: str
    image_path: Path
    mask_path: Path | None
    label: int
    group: str
    subset: str | None = None
    intensity_range: Range = EIGHT_BIT
    mask_rule: MaskRule = NONZERO
    mask_hint: str = ""

    @property
    def mask_file(self) -> Path | None:
        """Return the image file that `mask_rule` reads; None when there is no mask or it comes otherwise."""
        return self.mask_path

    @property
    def labels(self) -> frozenset[int]:
        """Return all classes that the sample shows, -1 alone when none is known."""
        return frozenset({self.label})

    @property
    def has_mask(self) -> bool:
        """Return whether the sample has a mask."""
        return self.mask_path is not None

    def read_image(self) -> np.ndarray:
        """Decode the image.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UserError: The file is missing or damaged, or its values do not fit `intensity_range`.
        """
        return read_image(self.image_path, self.intensity_range)

    def image_key(self) -> str:
        """Return a text that changes when the image, or how its values are read, does.

        Raises:
            UserError: The file is not there.
        """
        return f"{file_key(self.image_path)}|{self.intensity_range}"

    def read_mask(self) -> np.ndarray:
        """Decode the mask of a sample that has one.

        Returns:
            (H, W) uint8 with 0 = background, 1 = foreground, 255 = ignore.

        Raises:
            UserError: The file is missing or is no readable image.
        """
        assert self.mask_path is not None
        return self.mask_rule.read(self.mask_path)

    def read_class_mask(self) -> np.ndarray:
        """Decode the mask with the class of each pixel.

        Returns:
            (H, W) uint8 with 0 = background, 1 + class index, 255 = ignore; here the foreground is of the
            sample's own class, and ignored where that is unknown.
        """
        mask = self.read_mask()
        return np.where(mask == 1, np.uint8(IGNORE if self.label < 0 else self.label + 1), mask)

    def fingerprint(self) -> str:
        """Return a text that is the same wherever the same files lie."""
        paths = (self.image_path, self.mask_path)
        return "|".join("-" if path is None else str(file_status(path).st_size) for path in paths)

    def content_key(self) -> str:
        """Return a text that changes when the image, its annotation or the reading of it does.

        Raises:
            UserError: A file is not there.
        """
        return f"{self.image_key()}|{file_key(self.mask_path)}|{self.mask_rule.key()}"
