from __future__ import annotations

import pickle
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from volume_files import write_ctc

from polymask.data.samplers import EvaluationBatches
from polymask.data.sources import read_ctc
from polymask.data.transforms import Augmentation
from polymask.data.volume_cache import VolumeCache
from polymask.errors import UserError
from polymask.families.volumes.dataset import FrameDataset, SliceDataset, Slicing, collate, numbered_target

SHAPE = (6, 48, 56)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_ctc(tmp_path_factory.mktemp("volumes") / "ctc", shape=SHAPE, frames=3)


def slices(folder: Path, kept: Path | None = None, **options) -> SliceDataset:
    records = read_ctc(folder)[0]
    plain = {"slicing": Slicing(), "cache": VolumeCache(kept)}
    return SliceDataset(records, [SHAPE] * len(records), **plain | options)


def values(path: Path) -> np.ndarray:
    return np.array(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def windowed(volume: np.ndarray) -> np.ndarray:
    low, high = np.percentile(volume, (0.1, 99.9), method="inverted_cdf").astype(float)
    return np.rint((volume - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_an_item_is_a_slice_amid_its_neighbours_with_its_objects(folder, tmp_path, n):
    data = slices(folder, tmp_path, slicing=Slicing(slices=n))
    assert len(data) == 6 * 6
    for index in (0, 8, 35):
        item, (frame, z) = data[0, index, 0], divmod(index, 6)
        record = data.records[frame]
        volume, labels = windowed(values(record.image_path)), values(record.truth.path)[z]
        assert (item["id"], item["index"]) == (f"{record.id}/z{z:03}", index)
        places = [min(max(z + step, 0), 5) for step in range(-(n // 2), n // 2 + 1)]
        np.testing.assert_array_equal(item["image"], volume[places].transpose(1, 2, 0))
        target = item["target"]
        assert target["numbers"].tolist() == np.unique(labels[labels > 0]).tolist()
        for number, mask, box in zip(target["numbers"], target["masks"], target["boxes"], strict=True):
            np.testing.assert_array_equal(mask, labels == number)
            rows, columns = np.nonzero(labels == number)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert not target["labels"].any()
        assert not target["crowd"].any()


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [2]), (99, [5])]
)
def test_every_kth_slice_is_trained_on_and_at_least_one(folder, every, expected):
    data = slices(folder, slicing=Slicing(every=every))
    assert [z for frame, z in data._places if frame == 2] == expected
    assert len(data) == 6 * len(expected)


def test_only_annotated_slices_are_trained_on(tmp_path):
    folder = write_ctc(tmp_path / "ctc", shape=SHAPE, frames=1, dense=False)
    data = slices(folder, slicing=Slicing(reference=True))
    assert [data[0, index, 0]["id"][-4:] for index in range(3)] == ["z001", "z003", "z005"]
    # No neighbour is annotated: the slice itself stands for it.
    item = data[0, 1, 0]
    np.testing.assert_array_equal(item["reference"]["image"], item["image"])
    assert Slicing(every=2).chosen(np.zeros(4, bool)).tolist() == []


def test_the_reference_is_the_slice_before_and_moves_alike(folder):
    moves = [A.HorizontalFlip(p=0.5), A.RandomRotate90(p=0.7), A.Affine(rotate=(-40, 40), p=1.0)]
    data = slices(folder, slicing=Slicing(reference=True), augmentation=Augmentation(moves), seed=4)
    plain = slices(folder)
    for index, z in ((0, 1), (4, 3)):  # of the first slice it is the one after
        reference, alone = data[3, index, 0]["reference"], plain[0, z, 0]
        layer = np.zeros((*SHAPE[1:], 1), np.uint16)
        for number, mask in zip(alone["target"]["numbers"], alone["target"]["masks"], strict=True):
            layer[mask > 0] = number
        image, moved = Augmentation(moves)(alone["image"], layer, (4, 3, index, 0), keep_size=False)
        np.testing.assert_array_equal(reference["image"], image)
        masks = {number: moved[..., 0] == number for number in np.unique(moved) if number}
        assert reference["target"]["numbers"].tolist() == list(masks)
        np.testing.assert_array_equal(reference["target"]["masks"], np.array(list(masks.values())))


def test_augmentation_follows_from_the_key(folder):
    augmentation = Augmentation([A.RandomRotate90(p=0.5), A.GaussNoise(p=1.0)])
    data = slices(folder, augmentation=augmentation, seed=1)
    first, again = data[2, 7, 0], slices(folder, augmentation=augmentation, seed=1)[2, 7, 0]
    np.testing.assert_array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], data[3, 7, 0]["image"])
    assert not np.array_equal(first["image"], data[2, 7, 1]["image"])


def test_slices_and_their_truth_are_resized_but_not_what_is_evaluated(folder, tmp_path):
    size, cache = (32, 40), VolumeCache(tmp_path, image_size=(32, 40))
    item = slices(folder, cache=cache, slicing=Slicing(image_size=size))[0, 2, 0]
    assert (item["image"].shape, item["target"]["masks"].shape[1:]) == ((*size, 3), size)
    records = read_ctc(folder)[0]
    frame = FrameDataset(records, [SHAPE] * len(records), cache=cache)[0, 0, 0]
    assert (frame["volume"].shape, frame["truth"].shape) == ((6, *size), SHAPE)
    labels = values(records[0].truth.path)[2]
    wanted = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    shown = sum(
        mask * number for mask, number in zip(item["target"]["masks"], item["target"]["numbers"], strict=True)
    )
    np.testing.assert_array_equal(shown, wanted)


def test_collate_gives_lists_of_the_batch_contract(folder):
    data = slices(folder, slicing=Slicing(slices=5, reference=True))
    batch = collate([data[0, index, 0] for index in (0, 3)])
    assert batch.keys() == {"ids", "image", "target", "reference"}
    assert batch["ids"] == ["01/t000/z000", "01/t000/z003"]
    assert [(tuple(image.shape), image.dtype) for image in batch["image"]] == [((48, 56, 5), torch.uint8)] * 2
    for part in (batch["target"], [reference["target"] for reference in batch["reference"]]):
        for target in part:
            count = len(target["numbers"])
            assert {name: (tuple(value.shape), value.dtype) for name, value in target.items()} == {
                "boxes": ((count, 4), torch.float32),
                "labels": ((count,), torch.int64),
                "masks": ((count, 48, 56), torch.uint8),
                "crowd": ((count,), torch.bool),
                "numbers": ((count,), torch.int64),
            }


def test_loader_processes_hand_over_views_not_volumes(folder, tmp_path):
    records = read_ctc(folder)[0]
    data = FrameDataset(records, [SHAPE] * len(records), cache=VolumeCache(tmp_path))
    assert len(data) == 6
    batches = EvaluationBatches(6, batch_size=1)
    loader = DataLoader(data, batch_sampler=batches, num_workers=1, collate_fn=collate)
    for record, batch in zip(records, loader, strict=True):
        assert batch["ids"] == [record.id]
        assert len(pickle.dumps(batch)) < 2000
        np.testing.assert_array_equal(batch["volume"][0].open(), windowed(values(record.image_path)))
        np.testing.assert_array_equal(batch["truth"][0].open(), values(record.truth.path))
        assert batch["annotated"][0].tolist() == [True] * 6


def test_a_slice_without_objects_has_none():
    target = numbered_target(np.zeros((4, 5, 1), np.uint16))
    assert {name: value.shape for name, value in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 4, 5),
        "crowd": (0,),
        "numbers": (0,),
    }
    most = np.full((1, 1, 1), 65535, np.uint16)
    assert numbered_target(most)["numbers"].tolist() == [65535]


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("transform", [A.HueSaturationValue(p=0.3), A.ToSepia(p=1.0)])
def test_transforms_for_colours_are_refused_whatever_the_number_of_slices(folder, n, transform):
    with pytest.raises(UserError, match=type(transform).__name__) as caught:
        slices(folder, slicing=Slicing(slices=n), augmentation=Augmentation([transform]))
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value)


def test_mirrored_borders_are_refused(folder):
    with pytest.raises(UserError, match="Affine fills the border with copies"):
        slices(folder, augmentation=Augmentation([A.Affine(rotate=(-9, 9), border_mode=4)]))
