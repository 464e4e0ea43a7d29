from __future__ import annotations

import random
from collections import Counter

import albumentations as A
import numpy as np
import pytest

from polymask.data.transforms import Augmentation
from polymask.errors import UserError


def numbered_image(height: int = 6, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """An image whose first channel numbers the pixels, and the mask of its even numbers."""
    numbers = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    return np.stack([numbers, numbers, numbers], axis=-1), (numbers % 2).astype(np.uint8)


def many_transforms() -> Augmentation:
    return Augmentation(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomRotate90(p=0.5),
            A.Affine(scale=(0.8, 1.2), rotate=(-40, 40), border_mode=4, p=1.0),
            A.OneOf([A.GaussNoise(p=1.0), A.RandomBrightnessContrast(p=1.0)], p=1.0),
            A.CoarseDropout(p=0.5),
        ]
    )


def test_equal_seeds_give_equal_results_whatever_was_drawn_before():
    image, mask = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8), np.eye(32) > 0
    mask = mask.astype(np.uint8)
    one, other = many_transforms(), many_transforms()
    expected = [one(image, mask, (3, 0, index, 0)) for index in range(12)]
    np.random.seed(5)  # noqa: NPY002 - the legacy generator must not matter
    random.seed(5)
    for index in reversed(range(12)):
        found = other(image, mask, (3, 0, index, 0))
        np.testing.assert_array_equal(found[0], expected[index][0])
        np.testing.assert_array_equal(found[1], expected[index][1])


@pytest.mark.parametrize("position", [0, 1, 2, 3], ids=["seed", "epoch", "index", "repeat"])
def test_each_part_of_the_seed_changes_the_result(position):
    image, mask = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8), np.zeros((32, 32))
    augment, seed = many_transforms(), [1, 1, 1, 1]
    first = augment(image, mask.astype(np.uint8), seed)[0]
    seed[position] = 2
    assert (augment(image, mask.astype(np.uint8), seed)[0] != first).any()


def test_augmentation_leaves_the_global_generators_alone():
    image, mask = numbered_image(32, 32)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    for index in range(4):
        many_transforms()(image, mask, (0, 0, index, 0))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002


def test_horizontal_and_vertical_flip_fall_independently():
    image, mask = numbered_image()
    augment = Augmentation([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    results = {
        image[::vertical, ::horizontal].tobytes(): (vertical, horizontal)
        for vertical in (1, -1)
        for horizontal in (1, -1)
    }
    found = Counter(results[augment(image, mask, (0, 0, i, 0))[0].tobytes()] for i in range(400))
    assert len(found) == 4
    assert min(found.values()) > 70  # 100 expected, standard deviation 8.7


def test_two_transforms_of_one_kind_draw_different_numbers():
    image, mask = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), np.uint8)
    shift = {"brightness_limit": (-0.4, 0.4), "contrast_limit": 0, "p": 1.0, "brightness_by_max": True}
    twice = Augmentation([A.RandomBrightnessContrast(**shift), A.RandomBrightnessContrast(**shift)])
    once = Augmentation([A.RandomBrightnessContrast(**shift)])
    doubled = 0
    for index in range(50):
        first = int(once(image, mask, (0, 0, index, 0))[0][0, 0, 0]) - 100
        both = int(twice(image, mask, (0, 0, index, 0))[0][0, 0, 0]) - 100
        doubled += abs(both - 2 * first) <= 1
    assert doubled < 10


def test_mask_moves_with_the_image_and_keeps_its_values():
    numbers = np.random.default_rng(1).integers(0, 2, (24, 24), dtype=np.uint8)
    mask = np.kron(numbers, np.ones((4, 4), np.uint8))
    mask[:8] = 255
    image = np.repeat(mask[..., None], 3, axis=-1)
    geometric = Augmentation(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomRotate90(p=0.5),
            A.Affine(scale=(0.8, 1.2), rotate=(-40, 40), interpolation=0, border_mode=4, p=0.8),
        ]
    )
    for index in range(20):
        moved, moved_mask = geometric(image, mask, (0, 0, index, 0))
        np.testing.assert_array_equal(moved[..., 0], moved_mask)
        assert set(np.unique(moved_mask)) <= {0, 1, 255}
        assert moved_mask.dtype == np.uint8


def test_colour_leaves_the_mask_alone():
    image, mask = numbered_image()
    augment = Augmentation([A.RandomBrightnessContrast(p=1.0)])
    changed, same = augment(image, mask, (0, 0, 0, 0))
    np.testing.assert_array_equal(same, mask)
    assert (changed != image).any()


def test_inputs_stay_as_they_were():
    image, mask = numbered_image(32, 32)
    copies = image.copy(), mask.copy()
    for index in range(8):
        many_transforms()(image, mask, (0, 0, index, 0))
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(mask, copies[1])


def test_quarter_turns_keep_the_size_of_oblong_images() -> None:
    augmentation = Augmentation([A.RandomRotate90(p=1.0)])
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    mask = image[..., 0].copy()
    seen = set()
    for seed in range(40):
        turned, turned_mask = augmentation(image, mask, (seed,))
        assert turned.shape == image.shape
        assert (turned[..., 0] == turned_mask).all()
        seen.add(turned.tobytes())
    assert seen == {image.tobytes(), np.rot90(image, 2).tobytes()}


def test_transforms_of_other_libraries_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"builtins\.dict is no transform of albumentations; use one of these"
    ):
        Augmentation([A.HorizontalFlip(), {}])  # type: ignore[list-item]
