"""Decoded images and objects of different sizes: one file per sample, shared by all processes and runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from polymask.data.cache import unusable
from polymask.structures.layers import Layers
from polymask.utils.files import write_atomically

Sample = tuple[np.ndarray, Layers]

_FORMAT = "instances 1"  # raised when what a file holds changes


class InstanceCache:
    """Samples on disk, each written the first time it is asked for.

    A file holds the arrays of one sample one after the other, uncompressed, and is moved into place when
    it is whole: processes that write the same sample write the same bytes.

    Args:
        folder: Where the files live; it is created.

    Raises:
        UserError: The folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(self._folder, error) from error

    def get(self, key: str, read: Callable[[], Sample]) -> Sample:
        """Return the sample of `key`; `read` makes it when it is not there yet.

        Args:
            key: Everything that the sample depends on.
            read: Returns image (H, W, 3) uint8 and objects.

        Raises:
            UserError: The folder cannot be written to.
        """
        name = hashlib.sha256(f"{_FORMAT}\n{key}".encode()).hexdigest()[:32]
        path = self._folder / f"{name}.sample"
        try:
            with path.open("rb") as file:
                return _load(file)
        except FileNotFoundError:
            pass
        except (ValueError, EOFError):
            pass  # torn by a power cut: made anew
        except OSError as error:
            raise unusable(self._folder, error) from error
        image, objects = read()
        try:
            # Not synced: what a power cut tears is made anew.
            write_atomically(path, lambda file: _save(file, image, objects), sync=False)
        except OSError as error:
            raise unusable(self._folder, error) from error
        return image, objects


def _save(file: IO[bytes], image: np.ndarray, objects: Layers) -> None:
    columns = (objects.layer, objects.number, objects.labels, objects.crowd)
    for array in (image, objects.layers, np.stack(columns, axis=-1).astype(np.int32)):
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _load(file: IO[bytes]) -> Sample:
    image, layers, table = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(3))
    layer, number, labels, crowd = table.astype(np.int64).T
    return image, Layers(layers=layers, layer=layer, number=number, labels=labels, crowd=crowd.astype(bool))
