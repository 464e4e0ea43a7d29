"""What is seen of one frame: the volume, the true and the found objects, and their colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polymask.data.records import Record
from polymask.data.volume_cache import volume_pages
from polymask.data.volume_truth import VolumeTruth
from polymask.families.volumes.colours import matched_colours, object_colours, owners
from polymask.families.volumes.tables import Shapes, measure_shapes
from polymask.structures.volumes import FoundVolume

_CUBES = (1.0, 1.0, 1.0)


def scene_of(found: FoundVolume, record: Record, voxel_size: Sequence[float] | None) -> Scene:
    """Read the volume and the truth of what was found.

    Args:
        found: The objects.
        record: The frame.
        voxel_size: Edges of a voxel along z, y, x in micrometres, None when unknown.

    Raises:
        UserError: A file cannot be read.
    """
    depth, height, width = shape = found.labels.shape
    truth = record.truth if isinstance(record.truth, VolumeTruth) else None
    return Scene(
        volume=_read(volume_pages(record.image_path), shape, np.uint8),
        found=found.labels,
        truth=None if truth is None else _read(truth.pages((depth, height, width)), shape, np.uint16),
        annotated=np.zeros(depth, bool) if truth is None else truth.annotated(depth),
        voxel_size=voxel_size,
    )


def _read(pages: Iterable[np.ndarray], shape: Sequence[int], dtype: type[np.generic]) -> np.ndarray:
    """Return slices as one volume, which is the only one in memory."""
    return np.fromiter(pages, np.dtype((dtype, tuple(shape[1:]))), count=shape[0])


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to see a volume.

    Attributes:
        heading: What stands above.
        labels: (Z, H, W) integers, None to show the volume alone.
        colours: (N + 1, 3) uint8 RGB of the labels.
    """

    heading: str
    labels: np.ndarray | None
    colours: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is seen of one frame.

    Attributes:
        volume: (Z, h, w) uint8, a memory-mapped one too; its slices may be of another size than the labels.
        found: (Z, H, W) uint16, the objects found, from 1.
        truth: (Z, H, W) integers, the true ones; None when they are not known.
        annotated: (Z,) bool, the slices that the truth knows.
        voxel_size: Edges of a voxel along z, y, x in micrometres, None when unknown: then cubes are drawn.
    """

    volume: np.ndarray
    found: np.ndarray
    truth: np.ndarray | None
    annotated: np.ndarray
    voxel_size: Sequence[float] | None

    @property
    def spacing(self) -> Sequence[float]:
        """Return the edges of a voxel."""
        return self.voxel_size or _CUBES

    @cached_property
    def found_shapes(self) -> Shapes:
        """Return where the found objects are."""
        return measure_shapes(self.found, _largest(self.found))

    @cached_property
    def true_shapes(self) -> Shapes | None:
        """Return where the true objects are, None when they are not known."""
        return None if self.truth is None else measure_shapes(self.truth, _largest(self.truth))

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """Return what is drawn on the left, the truth or the bare volume, and on the right."""
        if self.truth is None or self.true_shapes is None:
            colours = object_colours(self.found_shapes, self.spacing)
            bare = Side(heading="image", labels=None, colours=colours)
            return bare, Side(
                heading=_heading("found", self.found_shapes), labels=self.found, colours=colours
            )
        true_shapes, found_shapes = self.true_shapes, self.found_shapes
        owner = owners(self.found, self.truth, self.annotated, len(true_shapes.voxels))
        colours = object_colours(true_shapes, self.spacing)
        true, found = matched_colours(colours, owner, true_shapes.voxels, len(found_shapes.voxels))
        missed = int(np.count_nonzero(true_shapes.voxels) - np.count_nonzero(owner))
        false = int(np.count_nonzero(found_shapes.voxels)) - len(np.unique(owner[owner > 0]))
        return (
            Side(heading=_heading("true", true_shapes, missed, "missed"), labels=self.truth, colours=true),
            Side(heading=_heading("found", found_shapes, false, "false"), labels=self.found, colours=found),
        )

    def middle(self) -> tuple[int, int, int]:
        """Return the middle voxel of an object: of the larger half, the one nearest to the volume's middle.

        A true object where there is one; of a volume without objects its own middle.
        """
        true, centre = self.true_shapes, (np.array(self.found.shape) - 1) / 2
        shapes = self.found_shapes if true is None or not true.voxels.any() else true
        if shapes.voxels.any():
            large = np.flatnonzero(shapes.voxels >= np.median(shapes.voxels[shapes.voxels > 0]))
            away = np.linalg.norm((shapes.centres[large] - centre) * self.spacing, axis=1)
            centre = shapes.centres[large[away.argmin()]]
        z, y, x = centre.round().astype(int).tolist()
        return z, y, x


def _heading(word: str, shapes: Shapes, alone: int = 0, how: str = "") -> str:
    """Return how many objects there are, and how many of them stand alone."""
    return f"{word}: {np.count_nonzero(shapes.voxels):,}" + (f", {alone:,} {how} (white)" if alone else "")


def _largest(labels: np.ndarray) -> int:
    return max(int(page.max(initial=0)) for page in labels)
