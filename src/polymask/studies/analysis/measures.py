"""What a data set looks like, measured in one pass over the samples as they are on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from polymask.errors import UserError
from polymask.structures.samples import OriginalSample
from polymask.studies.analysis.pixel_sums import CHANNELS, PixelSums

_GRID = 128  # rows and columns of the coverage map, whatever the sizes of the masks


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """Size and labels of one image; see `OriginalSample`. `mask_area` counts the foreground's pixels."""

    id: str
    subset: str
    height: int
    width: int
    class_names: tuple[str, ...]
    mask_area: int | None
    num_objects: int | None

    @property
    def mask_share(self) -> float | None:
        """Share of the image that the mask covers, None when there is no mask."""
        return None if self.mask_area is None else self.mask_area / (self.height * self.width)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What `analyze` found.

    Attributes:
        images: One row per image, in the order of the samples.
        pixels: Sums over all pixels at the images' own sizes.
        class_counts: Number of labels per class and subset, {class: {subset: count}}.
        coverage: (128, 128) float, share of the masks that cover a place, each mask stretched to the grid;
            None when there are no masks.
    """

    images: list[ImageRow]
    pixels: PixelSums
    class_counts: dict[str, Counter[str]]
    coverage: np.ndarray | None

    @property
    def subsets(self) -> list[str]:
        """Subsets that occur, train, val and test first."""
        found = {row.subset for row in self.images}
        first = [subset for subset in ("train", "val", "test") if subset in found]
        return first + sorted(found.difference(first))

    def mask_shares(self) -> np.ndarray:
        """Return the share of the image that each mask covers, one value per image with a mask."""
        return np.array([row.mask_share for row in self.images if row.mask_share is not None])

    def statistics(self) -> dict[str, float]:
        """Return all numbers by name; pixels and shares are fractions of 1, sizes and areas pixels."""
        rows = self.images
        areas = np.array([row.mask_area for row in rows if row.mask_area is not None])
        objects = np.array([row.num_objects for row in rows if row.num_objects is not None])
        return {
            "num_images": len(rows),
            **{f"num_images_{s or 'unused'}": sum(row.subset == s for row in rows) for s in self.subsets},
            "num_images_without_class": sum(not row.class_names for row in rows),
            "num_masks": len(areas),
            "num_empty_masks": int((areas == 0).sum()),
            "num_classes": len(self.class_counts),
            **{f"num_labels_{name}": counts.total() for name, counts in self.class_counts.items()},
            **self._pixel_statistics(),
            "num_image_sizes": len({(row.width, row.height) for row in rows}),
            **_summary("image_width", np.array([row.width for row in rows])),
            **_summary("image_height", np.array([row.height for row in rows])),
            **_summary("image_aspect_ratio", np.array([row.width / row.height for row in rows])),
            **_summary("mask_share", self.mask_shares()),
            **_summary("mask_area", areas),
            **_summary("num_objects", objects),
        }

    def _pixel_statistics(self) -> dict[str, float]:
        parts = {"": (0, 1, 2)} | {f"_{name}": (index,) for index, name in enumerate(CHANNELS)}
        found = {part: self.pixels.mean_and_std(channels) for part, channels in parts.items()}
        return {
            f"pixel_{what}{part}{unit}": scale * both[index]
            for unit, scale in (("", 1), ("_255", 255))
            for index, what in enumerate(("mean", "std"))
            for part, both in found.items()
        }


def analyze(samples: Iterable[OriginalSample], *, class_names: Sequence[str] = ()) -> Analysis:
    """Measure a data set in one pass; the memory taken does not grow with the images' sizes.

    Args:
        samples: The samples.
        class_names: Classes that are counted even when none of the samples is of them; they come first.

    Raises:
        UserError: There are no samples.
    """
    rows: list[ImageRow] = []
    pixels = PixelSums()
    class_counts = {name: Counter[str]() for name in class_names}
    covered, num_masks = np.zeros((_GRID, _GRID)), 0
    for sample in samples:
        rows.append(_image_row(sample))
        pixels.add(sample.image)
        for name in sample.class_names:
            class_counts.setdefault(name, Counter())[sample.subset] += 1
        if sample.mask is not None:
            covered += _on_grid(sample.mask)
            num_masks += 1
    if not rows:
        raise UserError("the data set holds no images to analyze; point data.data_dir at one that does.")
    return Analysis(
        images=rows,
        pixels=pixels,
        class_counts=class_counts,
        coverage=covered / num_masks if num_masks else None,
    )


def _image_row(sample: OriginalSample) -> ImageRow:
    height, width = sample.image.shape[:2]
    return ImageRow(
        id=sample.id,
        subset=sample.subset,
        height=height,
        width=width,
        class_names=tuple(sample.class_names),
        mask_area=None if sample.mask is None else cv2.countNonZero(sample.mask),
        num_objects=sample.num_objects,
    )


def _on_grid(mask: np.ndarray) -> np.ndarray:
    """Return the share of foreground in each cell of the grid laid over the mask, (128, 128) float32."""
    height, width = mask.shape
    # OpenCV averages areas only where it shrinks: small masks are first repeated into larger ones.
    scale = max(-(-_GRID // height), -(-_GRID // width))
    if scale > 1:
        mask = np.repeat(np.repeat(mask, scale, axis=0), scale, axis=1)
    return cv2.resize(mask.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)


def _summary(name: str, values: np.ndarray) -> dict[str, float]:
    """Return least, median, mean and largest of (N,) values, nothing when there are none."""
    if not len(values):
        return {}
    measures = {"min": values.min(), "median": np.median(values), "mean": values.mean(), "max": values.max()}
    return {f"{name}_{word}": float(measure) for word, measure in measures.items()}
