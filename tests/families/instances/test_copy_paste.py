"""Objects of one image on another: by hand, and as training samples. `test_family.py` trains with them."""

from __future__ import annotations

from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from instance_files import CLASSES, write_coco
from torch.utils.data import DataLoader

from polymask.data.samplers import TrainBatches
from polymask.data.sources import read_coco
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.families.instances.copy_paste import CopyPaste
from polymask.families.instances.data import Samples
from polymask.families.instances.dataset import InstanceDataset, collate_instances
from polymask.structures.layers import Layers, stack_masks
from polymask.utils.options import options_of

SIZE = (8, 8)


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def sample(grey: int, masks: list[np.ndarray], labels: list[int], crowd: list[bool] | None = None):
    size = masks[0].shape
    image = np.full((*size, 3), grey, np.uint8)
    return image, stack_masks(masks, labels, crowd or [False] * len(masks), size)


def pasted(below, other, *, seed: int = 0, **options) -> tuple[np.ndarray, Layers]:
    return CopyPaste(probability=1.0, **{"scale": [1, 1], **options})(
        below, other, np.random.default_rng(seed)
    )


def test_what_is_covered_leaves_the_objects_below():
    # The left half of the first object, all of the second, 14 of 15 pixels of the third, half of a crowd.
    below = sample(
        10,
        [
            rectangle(0, 2, 2, 6),
            rectangle(3, 5, 5, 7),
            rectangle(3, 0, 6, 5),
            rectangle(6, 0, 8, 8),
            rectangle(0, 7, 1, 8),
        ],
        [0, 1, 2, 0, 1],
        [False, False, False, True, False],
    )
    new = rectangle(0, 0, 2, 4) | rectangle(3, 0, 7, 7)
    new[5, 4] = new[6, 6] = 0
    image, objects = pasted(below, sample(200, [new], [1]))
    target = objects.to_target()
    np.testing.assert_array_equal(image[..., 0], np.where(new, 200, 10))
    assert target["labels"].tolist() == [0, 2, 0, 1, 1]
    # What is left of the third is neither an object nor background.
    assert target["crowd"].tolist() == [False, True, True, False, False]
    np.testing.assert_array_equal(target["boxes"][0], [4, 0, 6, 2])
    np.testing.assert_array_equal(target["boxes"][1], [4, 5, 5, 6])
    np.testing.assert_array_equal(target["masks"][2], rectangle(6, 0, 8, 8) * (1 - new))
    np.testing.assert_array_equal(target["masks"][3], rectangle(0, 7, 1, 8))
    np.testing.assert_array_equal(target["masks"][4], new)


def test_objects_that_overlap_stay_whole_and_nothing_is_changed_in_place():
    below = sample(10, [rectangle(0, 0, 4, 4), rectangle(2, 2, 6, 6)], [0, 0])
    other = sample(200, [rectangle(4, 4, 8, 8), rectangle(6, 6, 8, 8), rectangle(5, 5, 7, 7)], [1, 2, 2])
    before = [array.copy() for array in (below[0], below[1].layers, other[0], other[1].layers)]
    found = set()
    for seed in range(20):
        _, objects = pasted(below, other, seed=seed)
        target = objects.to_target()
        found.add(len(target["labels"]) - 2)
        covered = target["masks"][2:].any(axis=0)
        for mask, whole in zip(target["masks"][:2], below[1].masks(), strict=True):
            np.testing.assert_array_equal(mask, whole & ~covered)
        wholes = {mask.tobytes() for mask in other[1].masks()}
        assert {(mask > 0).tobytes() for mask in target["masks"][2:]} <= wholes
    assert found == {1, 2, 3}  # a random subset
    after = (below[0], below[1].layers, other[0], other[1].layers)
    assert all((one == two).all() for one, two in zip(before, after, strict=True))
    assert len(pasted(below, other, max_objects=1)[1].labels) == 3


def test_crowds_are_never_pasted_and_nothing_on_nothing_is_nothing():
    below = sample(10, [rectangle(0, 0, 4, 4)], [0])
    image, objects = pasted(below, sample(200, [rectangle(1, 1, 7, 7)], [1], [True]))
    assert (image == 10).all()
    assert len(objects.to_target()["labels"]) == 1
    empty = np.zeros((5, 5, 3), np.uint8), stack_masks([], [], [], (5, 5))
    image, objects = pasted(empty, empty)
    assert (image.shape, len(objects.labels)) == ((5, 5, 3), 0)


@pytest.mark.parametrize(("size", "scale"), [((4, 20), 1), ((12, 3), 1), ((8, 8), 2), ((40, 40), 0.5)])
def test_images_of_other_sizes_keep_image_and_mask_together(size: tuple[int, int], scale: float):
    other = sample(0, [rectangle(0, 0, *size, size)], [0])
    rows, columns = np.indices(size)
    other[0][...] = np.stack([rows, columns, rows], axis=-1) * 6
    below = sample(255, [rectangle(0, 0, 1, 1)], [0])
    for seed in range(5):
        image, objects = pasted(below, other, scale=[scale, scale], seed=seed)
        mask = objects.to_target()["masks"][-1] > 0
        np.testing.assert_array_equal((image != 255).any(axis=-1), mask)
        assert mask.sum() == np.prod([min(8, round(side * scale)) for side in size])


@pytest.fixture
def records(tmp_path: Path) -> list:
    return read_coco(write_coco(tmp_path / "coco"), classes=CLASSES)[0]


def moves() -> Augmentation:
    return Augmentation([A.RandomRotate90(p=0.7), A.Affine(translate_percent=(-0.3, 0.3), p=0.8)])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_samples_depend_on_seed_epoch_index_and_repeat_alone(tmp_path: Path, records: list):
    def batches(num_workers: int, seed: int = 0, **options) -> list[dict]:
        data = InstanceDataset(
            records, augmentation=moves(), copy_paste=CopyPaste(probability=0.7), seed=seed, **options
        )
        sampler = TrainBatches(len(records), batch_size=2, seed=0)
        sampler.start_epoch(3)
        return list(
            DataLoader(data, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_instances)
        )

    alone, shared = batches(0), batches(1, cache_dir=tmp_path / "cache")
    for one, two in zip(alone, shared, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one["image"], two["image"], strict=True))
        for a, b in zip(one["target"], two["target"], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(alone[0]["image"][0], batches(0, seed=1)[0]["image"][0])


def test_pasting_adds_objects_to_the_very_same_augmented_sample(records: list):
    plain = InstanceDataset(records, augmentation=moves())
    data = InstanceDataset(records, augmentation=moves(), copy_paste=CopyPaste(probability=0.5))
    more = same = 0
    for epoch in range(6):
        for index in range(len(records)):
            one, two = plain[epoch, index, 0], data[epoch, index, 0]
            assert one["image"].shape == two["image"].shape
            changed = (one["image"] != two["image"]).any(axis=-1)
            same += not changed.any()
            new = two["target"]["masks"].any(axis=0) & changed
            more += bool(new.any())
            assert (new == changed).all()  # nothing changes outside of objects
    assert min(more, same) > 8


def test_only_training_pastes_and_only_where_it_augments(tmp_path: Path):
    folder = write_coco(tmp_path / "coco")
    samples = Samples(
        reader=read_coco, data_dir=str(folder), classes=CLASSES, copy_paste={"probability": 1.0}
    )
    options = {"cache_dir": None, "seed": 0}
    train = samples.training_dataset(samples.records, augmentation=moves(), **options)
    assert train.copy_paste == CopyPaste(probability=1.0)
    assert samples.training_dataset(samples.records, augmentation=None, **options).copy_paste is None
    assert samples.dataset(samples.records, augmentation=None, **options).copy_paste is None
    alone = InstanceDataset(samples.records[:1], augmentation=moves(), copy_paste=train.copy_paste)
    assert alone[0, 0, 0]["id"] == samples.records[0].id  # nobody to take objects from


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, r"data\.copy_paste\.probability=1\.5 is not valid; .*at most 1"),
        ({"max_objects": 0}, r"data\.copy_paste\.max_objects=0 is not valid; .*at least 1"),
        ({"scale": [2, 1]}, r"data\.copy_paste\.scale=\[2,1\] is not valid; the smaller factor comes first"),
        ({"scale": [1]}, r"data\.copy_paste\.scale=\[1\] is not valid; give two factors"),
        ({"scale": 1.5}, r"data\.copy_paste\.scale=1\.5 is not valid; give two factors"),
        ({"probabilty": 1}, r"data\.copy_paste\.probabilty is unknown. Did you mean 'probability'\?"),
    ],
)
def test_mistakes_are_one_line(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        options_of(CopyPaste, options, "data.copy_paste")


def test_what_the_edge_leaves_of_an_object_is_not_pasted_as_one():
    # An image of one column, into which one of twenty columns of the other object falls.
    below = sample(10, [rectangle(0, 0, 1, 1, (8, 1))], [0])
    wide = sample(200, [rectangle(0, 0, 8, 20, (8, 20))], [1])
    for seed in range(10):
        image, objects = pasted(below, wide, seed=seed)
        assert objects.labels.tolist() == [0]
        assert (image == 10).all()
