from __future__ import annotations

import numpy as np
import pytest

from polymask.families.volumes.gaps import fill_gap, find_gaps
from polymask.families.volumes.linking import Linker, Linking, apply_links


def disk(radius, centre=(20, 20), size=(40, 48)):
    rows, columns = np.indices(size)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_gaps_are_found_in_any_order_of_the_sections():
    objects = np.array([2, 1, 2, 1, 0, 0, 1, 2])
    slices = np.array([1, 0, 2, 3, 0, 4, 4, 5])
    assert find_gaps(objects, slices).tolist() == [[1, 0, 3], [2, 2, 5]]


def test_equal_sections_are_repeated():
    labels = np.zeros((4, 40, 48), np.uint16)
    labels[0] = labels[3] = 7 * disk(9)
    fill_gap(labels, 7, 0, 3)
    for of_slice in labels[1:3]:
        np.testing.assert_array_equal(of_slice, labels[0])


def test_radii_between_are_between():
    labels = np.zeros((4, 40, 48), np.uint16)
    labels[0], labels[3] = disk(6), disk(15)
    fill_gap(labels, 1, 0, 3)
    for z, radius in ((1, 9), (2, 12)):
        assert np.count_nonzero(labels[z] ^ disk(radius)) < 0.06 * disk(radius).sum()


def test_other_objects_are_left_alone():
    labels = np.zeros((3, 40, 48), np.uint16)
    labels[0] = labels[2] = disk(9)
    labels[1] = 2 * disk(9, centre=(20, 30))
    fill_gap(labels, 1, 0, 2)
    np.testing.assert_array_equal(labels[1] == 2, disk(9, centre=(20, 30)))
    np.testing.assert_array_equal(labels[1] == 1, disk(9) & ~disk(9, centre=(20, 30)))


def test_sections_that_fill_the_image():
    labels = np.ones((3, 5, 5), np.uint16)
    labels[1] = 0
    fill_gap(labels, 1, 0, 2)
    assert labels.all()


@pytest.mark.parametrize("fill_gaps", [True, False])
def test_links_fill_when_asked_and_memory_maps_are_changed(tmp_path, fill_gaps):
    labels = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint16, (5, 40, 48))
    linker = Linker(Linking(fill_gaps=fill_gaps), (40, 48))
    for z, mask in enumerate([disk(5, (8, 8)), disk(9), np.zeros((40, 48), bool), disk(9), disk(9)]):
        labels[z] = mask
        linker.add(np.asarray(labels[z]), np.ones(int(mask.max())), np.zeros(int(mask.max()), int))
    apply_links(labels, linker.finish())
    stored = np.load(tmp_path / "labels.npy", mmap_mode="r")
    np.testing.assert_array_equal(stored[2], 2 * disk(9) if fill_gaps else 0)
    assert [np.unique(of_slice).tolist() for of_slice in stored[[0, 1, 3, 4]]] == [[0, 1], *[[0, 2]] * 3]
