"""Volumes: where one lies on disk, stacks of neighbouring slices, and what was found in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VolumeView:
    """A volume in a file of NumPy's format, opened where it is used.

    Loader workers hand volumes to the training process; this value is a few bytes, however large the volume.

    Attributes:
        path: The `.npy` file.
        shape: (Z, H, W).
        dtype: Name of its number type, such as `uint8`.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: str

    def open(self) -> np.ndarray:
        """Return the (Z, H, W) volume, memory-mapped and read-only: only slices that are used are read."""
        return np.load(self.path, mmap_mode="r")


@dataclass(frozen=True)
class LoadedVolume:
    """A volume in memory, where nothing is kept on disk; used as a `VolumeView`.

    Attributes:
        array: (Z, H, W).
    """

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (Z, H, W)."""
        return self.array.shape

    @property
    def dtype(self) -> str:
        """Return the name of the number type."""
        return str(self.array.dtype)

    def open(self) -> np.ndarray:
        """Return the volume."""
        return self.array


def slice_places(z: int, n: int, depth: int) -> np.ndarray:
    """Return the n slices around slice z, z - (n - 1) / 2 to z + (n - 1) / 2; the ends are repeated.

    Args:
        z: The slice in the middle, from 0.
        n: Number of slices, odd.
        depth: Slices of the volume.
    """
    return (np.arange(n) + z - (n - 1) // 2).clip(0, depth - 1)


def slice_stack(volume: np.ndarray, z: int, n: int) -> np.ndarray:
    """Return (H, W, n): the slices of `slice_places` of a (Z, H, W) volume, the middle one being slice z."""
    return np.stack([volume[place] for place in slice_places(z, n, len(volume))], axis=-1)


@dataclass(frozen=True, kw_only=True)
class FoundVolume:
    """The objects that were found in one volume.

    Attributes:
        id: Name of the volume.
        labels: (Z, H, W) uint16 object numbers 1 to N, 0 = background, at the file's own size; may be
            memory-mapped.
        scores: (N,) float32, mean score of an object's sections.
        classes: (N,) int64 class index, from 0.
    """

    id: str
    labels: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
