from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from polymask.structures.overlaps import (
    Overlaps,
    count_overlaps,
    intersection_over_union,
    mutual_best,
    sum_overlaps,
)


def counted(first, second):
    pairs = Counter(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    return sorted((a, b, count) for (a, b), count in pairs.items() if a and b)


def listed(overlaps):
    return list(zip(*(values.tolist() for values in overlaps), strict=True))


def random_labels(rng, shape, numbers):
    """Blocks of 3 x 3 pixels with random numbers, a third of them background."""
    blocks = rng.choice(numbers, [side // 3 + 1 for side in shape]) * (rng.random() < 1)
    blocks[rng.random(blocks.shape) < 1 / 3] = 0
    return np.kron(blocks, np.ones((3, 3), int))[: shape[0], : shape[1]].astype(np.uint16)


@pytest.mark.parametrize("numbers", [[1, 2, 5], [3, 40_000, 65_535]], ids=["table", "sorted"])
def test_pairs_equal_a_loop_over_pixels(numbers):
    rng = np.random.default_rng(0)
    first, second = (random_labels(rng, (20, 31), numbers) for _ in range(2))
    overlaps = count_overlaps(first, second)
    assert len(overlaps.shared) == 9
    assert listed(overlaps) == counted(first, second)


def test_slices_add_up_to_the_volume():
    rng = np.random.default_rng(1)
    first, second = (np.stack([random_labels(rng, (9, 9), range(1, 9)) for _ in range(5)]) for _ in range(2))
    parts = [count_overlaps(*slices) for slices in zip(first, second, strict=True)]
    assert listed(sum_overlaps(parts)) == counted(first, second)
    assert listed(sum_overlaps([])) == []


def test_no_pixel_in_common():
    labels = np.zeros((4, 4), np.uint16)
    assert listed(count_overlaps(labels, labels + 1)) == []
    assert mutual_best(count_overlaps(labels, labels), np.zeros(0)).tolist() == []


def test_intersection_over_union():
    first, second = np.zeros((2, 6, 6), np.uint16)
    first[:4, :4], second[2:, 2:] = 2, 1
    overlaps = count_overlaps(first, second)
    iou = intersection_over_union(overlaps, np.bincount(first.ravel()), np.bincount(second.ravel()))
    assert iou.tolist() == [4 / 28]


def pairs(*values):
    first, second, quality = zip(*values, strict=True)
    return Overlaps(np.array(first), np.array(second), np.ones(len(first), int)), np.array(quality)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(1, 1, 0.5), (1, 2, 0.4), (2, 2, 0.3)], [0]),  # 2 is nearer to 1, which is nearer to another
        ([(1, 1, 0.5), (1, 2, 0.4), (2, 2, 0.45)], [0, 2]),
        ([(1, 1, 0.5), (2, 1, 0.5)], [0]),
        ([(1, 1, 0.5), (1, 2, 0.5), (2, 1, 0.5), (2, 2, 0.5)], [0]),
    ],
)
def test_each_is_the_best_of_the_other(values, expected):
    assert sorted(mutual_best(*pairs(*values)).tolist()) == expected
