from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from polymask.structures.volumes import LoadedVolume, VolumeView, slice_stack


@pytest.mark.parametrize(
    ("z", "n", "expected"),
    [
        (2, 1, [2]),
        (2, 3, [1, 2, 3]),
        (0, 3, [0, 0, 1]),
        (4, 5, [2, 3, 4, 4, 4]),
        (1, 9, [0, 0, 0, 0, 1, 2, 3, 4, 4]),
    ],
)
def test_a_slice_stands_between_its_neighbours_and_the_ends_are_repeated(z, n, expected):
    volume = np.arange(5 * 2 * 3).reshape(5, 2, 3)
    stack = slice_stack(volume, z, n)
    assert stack.shape == (2, 3, n)
    np.testing.assert_array_equal(stack, volume[expected].transpose(1, 2, 0))


def test_a_view_is_small_and_opens_the_file_where_it_is_used(tmp_path: Path):
    volume = np.arange(40 * 30 * 30, dtype=np.uint16).reshape(40, 30, 30)
    np.save(tmp_path / "v.npy", volume)
    view = VolumeView(tmp_path / "v.npy", volume.shape, "uint16")
    assert len(pickle.dumps(view)) < 1000
    opened = pickle.loads(pickle.dumps(view)).open()
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, volume)
    with pytest.raises(ValueError, match="read-only"):
        opened[0, 0, 0] = 1


def test_a_volume_in_memory_is_used_as_a_view():
    volume = np.zeros((2, 3, 4), np.uint8)
    loaded = LoadedVolume(volume)
    assert (loaded.shape, loaded.dtype) == ((2, 3, 4), "uint8")
    assert loaded.open() is volume
