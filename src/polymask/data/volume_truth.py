"""The objects of a volume: a label volume, or label maps of single slices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from polymask.data.cache import file_key, file_status
from polymask.data.records import Record
from polymask.data.stacks import Stack, label_slice, open_stack
from polymask.data.truth import Truth
from polymask.errors import UserError

_WHAT = "ground truth"


@dataclass(frozen=True)
class VolumeTruth(Truth):
    """The objects of one volume as numbers, 0 = background.

    Attributes:
        path: The label volume; where only some slices are annotated, the folder with their label maps.
        slices: Number (from 0) and label map of each annotated slice, sorted; empty where `path` is a volume.
    """

    slices: tuple[tuple[int, Path], ...] = field(default=(), kw_only=True)
    gives: ClassVar[frozenset[str]] = frozenset({"volume"})

    def annotated(self, depth: int) -> np.ndarray:
        """Return (Z,) bool: which slices of a volume of `depth` slices are annotated."""
        if not self.slices:
            return np.ones(depth, bool)
        return np.isin(np.arange(depth), [z for z, _ in self.slices])

    def stacks(self) -> list[Stack]:
        """Look at the headers of all files: one label volume, or stacks of one page.

        Raises:
            UserError: See `open_stack`.
        """
        if not self.slices:
            return [open_stack(self.path, what=_WHAT)]
        return [label_slice(path, _WHAT) for _, path in self.slices]

    def pages(self, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
        """Yield the labels of each slice of a volume of `shape`, (H, W) uint16, 0 where nothing is annotated.

        Raises:
            UserError: A file cannot be read, or has another shape.
        """
        stacks = self.stacks()
        self.check_shape(shape, stacks)
        if not self.slices:
            yield from (page.astype(np.uint16) for page in stacks[0].pages())
            return
        of_slice = {z: stack for (z, _), stack in zip(self.slices, stacks, strict=True)}
        for z in range(shape[0]):
            page = of_slice[z].read(0) if z in of_slice else np.zeros(shape[1:])
            yield page.astype(np.uint16)

    def check_shape(self, shape: tuple[int, int, int], stacks: list[Stack] | None = None) -> None:
        """Compare the shape of all files with that of the volume.

        Args:
            shape: (Z, H, W).
            stacks: What `stacks` returned, where it was asked before.

        Raises:
            UserError: They differ, or a slice lies outside of the volume.
        """
        for stack in self.stacks() if stacks is None else stacks:
            own, wanted = (stack.shape[1:], shape[1:]) if self.slices else (stack.shape, shape)
            if own == wanted:
                continue
            reason = "both must have one shape"
            if sorted(own) == sorted(wanted):
                reason = "the axes seem to be in another order; save both with one page per slice (z, y, x)"
            raise UserError(
                f"{_WHAT} {stack.path} has {' x '.join(map(str, own))} voxels, but its volume "
                f"{' x '.join(map(str, wanted))}: {reason}."
            )
        outside = [path for z, path in self.slices if z >= shape[0]]
        if outside:
            raise UserError(
                f"{_WHAT} {outside[0]} is of a slice that the volume does not have: it has {shape[0]}, "
                f"0 to {shape[0] - 1}. Rename or remove it."
            )

    def has_objects(self) -> bool:
        """Return whether any voxel is of an object; reads only until one is found."""
        return any(page.any() for stack in self.stacks() for page in stack.pages())

    def read_mask(self) -> np.ndarray:
        """Decode the mask of the volume seen along z, see `Truth.read_mask`."""
        pages = (page != 0 for stack in self.stacks() for page in stack.pages())
        mask = next(pages).copy()
        for page in pages:
            mask |= page
        return mask.astype(np.uint8)

    def read_class_mask(self, label: int) -> np.ndarray:
        """Decode the mask of the volume seen along z, all of it of one class."""
        return self.read_mask() * np.uint8(max(label, 0) + 1)

    def check(self, image_size: tuple[int, int]) -> None:
        """Compare rows and columns of all files with those of the volume, see `Truth.check`."""
        stacks = self.stacks()
        depth = max([stacks[0].shape[0], *(z + 1 for z, _ in self.slices)])
        self.check_shape((depth, *image_size), stacks)

    def fingerprint(self) -> str:
        """Return the sizes of the files, and which slices they are."""
        if not self.slices:
            return str(file_status(self.path).st_size)
        return ",".join(f"{z} {file_status(path).st_size}" for z, path in self.slices)

    def content_key(self) -> str:
        """Return a text that changes when one of the files does."""
        if not self.slices:
            return file_key(self.path)
        keys = "|".join(f"{z} {file_key(path)}" for z, path in self.slices)
        return hashlib.sha256(keys.encode()).hexdigest()


def volume_truth(record: Record) -> VolumeTruth:
    """Return the truth of a record, which must be that of a volume.

    Raises:
        UserError: It is another one.
    """
    if not isinstance(record.truth, VolumeTruth):
        raise UserError(
            f"{record.image_path} has no labels of a volume; choose a data.reader that finds some, such "
            "as that of data=ctc."
        )
    return record.truth
