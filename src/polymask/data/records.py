"""What a data set reader returns: one record per image, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Record:
    """One sample on disk.

    Attributes:
        id: Unique name of the image, also its name in every result.
        image_path: The image file.
        mask_path: The mask file, None when the sample has no mask.
        label: Index into the class names, -1 when the class is unknown.
        group: Samples of one group (lesion, patient, sequence) never stand in two subsets.
    """

    id: str
    image_path: Path
    mask_path: Path | None
    label: int
    group: str
