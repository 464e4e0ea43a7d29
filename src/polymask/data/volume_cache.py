"""Decoded volumes and their labels: one memory-mapped file each, shared by workers, processes, later runs."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from polymask.data.cache import file_key, unusable
from polymask.data.images import resize_image
from polymask.data.intensity import Range
from polymask.data.reading import read_ahead
from polymask.data.records import Record
from polymask.data.stacks import PERCENTILES, open_stack, windowed
from polymask.data.volume_truth import VolumeTruth, volume_truth
from polymask.errors import UserError
from polymask.structures.volumes import LoadedVolume, VolumeView
from polymask.utils.files import write_atomically

Shape = tuple[int, int, int]
View = VolumeView | LoadedVolume

_FORMAT = "volumes 1"  # raised when what a file holds changes


def volume_pages(
    path: Path, *, image_size: tuple[int, int] | None = None, percentiles: Range = PERCENTILES
) -> Iterator[np.ndarray]:
    """Yield the slices of a volume, (H, W) uint8; the window is that of the whole volume, see `Stack.window`.

    Args:
        path: A TIFF file.
        image_size: (height, width) of the slices, None for their own.
        percentiles: Of the values of the volume: what becomes black and white.

    Raises:
        UserError: See `open_stack` and `Stack.read`.
    """
    stack = open_stack(path)
    low, high = stack.window(percentiles)
    for page in stack.pages():
        yield resize_image(windowed(page, low, high), image_size or page.shape)


class VolumeCache:
    """Volumes as (Z, H, W) uint8 and their labels as (Z, H0, W0) uint16, each written when first asked for.

    Slices are cut out of the mapped files, so that n neighbouring slices cost no copies on disk, and memory
    holds what the operating system keeps of the files, once for all processes.

    Args:
        folder: Where the files live; None to decode anew, in which case the last volume is kept in memory.
        image_size: (height, width) of slices, None for their own; labels keep theirs.
        percentiles: Of the values of each volume: what becomes black and white.

    Raises:
        UserError: The folder cannot be created.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        image_size: tuple[int, int] | None = None,
        percentiles: Range = PERCENTILES,
    ) -> None:
        self._folder, self._size, self._percentiles = folder, image_size, percentiles
        self._known: dict[str, tuple[View, View]] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unusable(folder, error) from error

    def fill(self, records: Sequence[Record], shapes: Sequence[Shape]) -> None:
        """Decode all volumes that are not there yet, in threads, with a bar on a terminal.

        Args:
            records: The volumes.
            shapes: (Z, H, W) of each file.

        Raises:
            UserError: A file cannot be read or written.
        """
        pairs = list(zip(records, shapes, strict=True))
        missing = [] if self._folder is None else [pair for pair in pairs if not self._is_there(*pair)]
        for _ in _shown(read_ahead(lambda pair: self.views(*pair), missing), len(missing)):
            pass

    def views(self, record: Record, shape: Shape) -> tuple[View, View]:
        """Return volume and labels of a record, decoded if they are not there yet.

        Args:
            record: The volume.
            shape: (Z, H, W) of its file.

        Returns:
            Views of (Z, H, W) uint8, and of (Z, H0, W0) uint16 at the size of the file.

        Raises:
            UserError: A file cannot be read or written.
        """
        if self._folder is None:
            return self._loaded(record, shape)
        if record.id not in self._known:  # files are asked for their times once, not for every slice
            truth, path = volume_truth(record), record.image_path

            def pages() -> Iterator[np.ndarray]:
                return volume_pages(path, image_size=self._size, percentiles=self._percentiles)

            self._known[record.id] = (
                _kept(self._volume_view(record, shape), pages),
                _kept(self._label_view(record, shape), lambda: truth.pages(shape)),
            )
        return self._known[record.id]

    def _loaded(self, record: Record, shape: Shape) -> tuple[View, View]:
        truth, path = volume_truth(record), record.image_path
        return (
            _loaded_volume(file_key(path), path, self._size, self._percentiles),
            _loaded_labels(truth.content_key(), truth, shape),
        )

    def _is_there(self, record: Record, shape: Shape) -> bool:
        return _is_whole(self._volume_view(record, shape)) and _is_whole(self._label_view(record, shape))

    def _volume_view(self, record: Record, shape: Shape) -> VolumeView:
        own = (shape[0], *(self._size or shape[1:]))
        key = f"{file_key(record.image_path)}|{self._size}|{self._percentiles}"
        return self._view(key, own, "uint8")

    def _label_view(self, record: Record, shape: Shape) -> VolumeView:
        return self._view(volume_truth(record).content_key(), shape, "uint16")

    def _view(self, key: str, shape: Shape, dtype: str) -> VolumeView:
        assert self._folder is not None
        name = hashlib.sha256(f"{_FORMAT}\n{key}\n{shape}{dtype}".encode()).hexdigest()[:32]
        return VolumeView(self._folder / f"{name}.npy", shape, dtype)


def _is_whole(view: VolumeView) -> bool:
    """Return whether the file is there and not shorter than what it shall hold: a power cut may tear it."""
    try:
        return view.path.stat().st_size > math.prod(view.shape) * np.dtype(view.dtype).itemsize
    except FileNotFoundError:
        return False


def _kept(view: VolumeView, pages: Callable[[], Iterator[np.ndarray]]) -> VolumeView:
    """Return a view of a file that is there; `pages` makes its slices when it is not."""
    if not _is_whole(view):
        # Not synced: what a power cut tears is made anew. Processes that write it write the same bytes.
        write_atomically(view.path, lambda file: _write(file, view, pages()), sync=False)
    return view


def _write(file: IO[bytes], view: VolumeView, pages: Iterable[np.ndarray]) -> None:
    # Page by page, so that no volume is in memory as a whole; and not into a mapped file, which on a full
    # disk would kill the process without a word.
    header = {"descr": np.dtype(view.dtype).str, "fortran_order": False, "shape": view.shape}
    np.lib.format.write_array_header_1_0(file, header)
    number = 0
    for page in pages:
        file.write(np.ascontiguousarray(page, view.dtype).data)
        number += 1
    if number != view.shape[0]:
        raise UserError(
            f"a volume has {number} slices now, {view.shape[0]} when it was looked at: its file has changed "
            "meanwhile; run it again."
        )


@lru_cache(maxsize=1)
def _loaded_volume(
    key: str, path: Path, image_size: tuple[int, int] | None, percentiles: Range
) -> LoadedVolume:
    return LoadedVolume(np.stack(list(volume_pages(path, image_size=image_size, percentiles=percentiles))))


@lru_cache(maxsize=1)
def _loaded_labels(key: str, truth: VolumeTruth, shape: Shape) -> LoadedVolume:
    return LoadedVolume(np.stack(list(truth.pages(shape))))


def _shown(items: Iterable[object], total: int) -> Iterable[object]:
    """Return items with a bar over them, where there are any and standard error is a terminal."""
    if not total or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, "volumes decoded once", total=total, console=Console(stderr=True), transient=True)
