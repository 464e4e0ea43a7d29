from __future__ import annotations

import traceback
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from instance_files import CLASSES, EMPTY, make_scenes, write_coco, write_label_maps
from torch.utils.data import DataLoader

from polymask.data.images import read_image
from polymask.data.samplers import TrainBatches
from polymask.data.sources import read_coco, read_label_maps
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.families.instances.dataset import InstanceDataset, collate_instances


@pytest.fixture
def records(tmp_path: Path) -> list:
    return read_coco(write_coco(tmp_path / "coco"), classes=CLASSES)[0]


def geometric() -> Augmentation:
    return Augmentation(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomRotate90(p=0.7),
            A.Affine(scale=(0.8, 1.3), rotate=(-40, 40), translate_percent=(-0.4, 0.4), p=0.8),
            A.OneOf([A.ElasticTransform(alpha=20, p=1.0), A.RandomBrightnessContrast(p=1.0)], p=0.5),
        ]
    )


def assert_same(one: dict, other: dict) -> None:
    assert (one["id"], one["index"]) == (other["id"], other["index"])
    np.testing.assert_array_equal(one["image"], other["image"])
    assert one["target"].keys() == other["target"].keys()
    for name, value in one["target"].items():
        np.testing.assert_array_equal(value, other["target"][name])
        assert value.dtype == other["target"][name].dtype


def test_item_holds_the_image_and_its_objects_at_their_own_size(records):
    data = InstanceDataset(records)
    assert len(data) == 6
    for index, record in enumerate(records):
        item = data[0, index, 0]
        assert (item["id"], item["index"]) == (record.id, index)
        np.testing.assert_array_equal(item["image"], read_image(record.image_path))
        assert item["target"]["masks"].shape == (len(record.truth.objects), *record.truth.size)
        assert item["target"]["labels"].tolist() == [found.label for found in record.truth.objects]


def test_collate_gives_lists_of_tensors_of_the_batch_contract(records):
    data = InstanceDataset(records)
    batch = collate_instances([data[0, index, 0] for index in (0, EMPTY, 2)])
    assert batch["ids"] == [records[index].id for index in (0, EMPTY, 2)]
    sizes = [records[index].truth.size for index in (0, EMPTY, 2)]
    assert [(tuple(image.shape), image.dtype) for image in batch["image"]] == [
        ((*size, 3), torch.uint8) for size in sizes
    ]
    for size, target in zip(sizes, batch["target"], strict=True):
        count = len(target["labels"])
        assert {name: (tuple(value.shape), value.dtype) for name, value in target.items()} == {
            "boxes": ((count, 4), torch.float32),
            "labels": ((count,), torch.int64),
            "masks": ((count, *size), torch.uint8),
            "crowd": ((count,), torch.bool),
        }
    assert [len(target["labels"]) for target in batch["target"]].index(0) == 1
    assert batch["target"][2]["crowd"].any()


def each_mask_alone(
    record, augmentation: Augmentation, seed: tuple[int, ...]
) -> list[tuple[int, np.ndarray]]:
    """Augment every object of a record for itself; those that keep a pixel, with their labels."""
    image = read_image(record.image_path)
    instances = record.read_objects(record.truth.size)
    target, num_layers = instances.to_target(), instances.layers.shape[-1]
    # As many channels as there are layers, since OpenCV breaks ties of rounding otherwise for two.
    masks = np.repeat(target["masks"][..., None], num_layers, axis=-1)
    moved = [augmentation(image, mask, seed, keep_size=False)[1][..., 0] for mask in masks]
    return [(label, mask) for label, mask in zip(target["labels"], moved, strict=True) if mask.any()]


def test_augmentation_moves_each_object_as_if_it_were_alone_and_boxes_follow(records):
    data, augmentation = InstanceDataset(records, augmentation=geometric(), seed=3), geometric()
    num_lost = num_turned = 0
    for epoch in range(8):
        for index, record in enumerate(records):
            item = data[epoch, index, 0]
            expected = each_mask_alone(record, augmentation, (3, epoch, index, 0))
            target = item["target"]
            assert target["labels"].tolist() == [label for label, _ in expected]
            assert target["masks"].shape[1:] == item["image"].shape[:2]
            for box, mask, (_, wanted) in zip(target["boxes"], target["masks"], expected, strict=True):
                np.testing.assert_array_equal(mask, wanted)
                rows, columns = np.nonzero(wanted)
                assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            num_lost += len(record.truth.objects) - len(expected)
            num_turned += item["image"].shape[:2] != record.truth.size
    assert num_lost > 5  # objects did leave the image
    assert num_turned > 5  # oblong images keep the shape that a quarter turn gives them


def test_objects_stay_on_their_pixels(records):
    # Each object has a colour of its own, and without interpolation the picture moves as its mask does.
    move = A.Affine(rotate=(-40, 40), translate_percent=(-0.2, 0.2), interpolation=0, p=1.0)
    data = InstanceDataset(records, augmentation=Augmentation([A.RandomRotate90(p=0.5), move]))
    for index in (0, 4, 5):
        colours = set().union(*object_colours(InstanceDataset(records)[0, index, 0]))
        for epoch in range(5):
            for found in object_colours(data[epoch, index, 0]):
                assert len(found & colours) == 1


def object_colours(item: dict) -> list[set[tuple[int, ...]]]:
    """The colours under the inner pixels of each object; its outline may differ by a pixel."""
    inner = [cv2.erode(mask, np.ones((3, 3), np.uint8)) for mask in item["target"]["masks"]]
    return [{tuple(pixel) for pixel in item["image"][mask > 0].tolist()} for mask in inner if mask.any()]


def test_augmentation_depends_on_epoch_index_repeat_and_seed(records):
    twins = [records[0], records[0]]
    options = {"augmentation": Augmentation([A.RandomBrightnessContrast(p=1.0), A.GaussNoise(p=1.0)])}
    data, other = InstanceDataset(twins, **options), InstanceDataset(twins, seed=1, **options)
    images = [data[key]["image"] for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    images.append(other[0, 0, 0]["image"])
    assert len({image.tobytes() for image in images}) == 5
    assert_same(data[0, 0, 0], data[0, 0, 0])


@pytest.mark.parametrize("border_mode", [cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE])
def test_mirrored_borders_are_a_user_error_also_inside_a_choice(records, border_mode):
    mirror = A.Affine(translate_percent=0.3, border_mode=border_mode, p=1.0)
    for transforms in ([mirror], [A.HorizontalFlip(), A.OneOf([mirror])]):
        with pytest.raises(UserError, match=r"transforms: Affine .*transforms\.affine\.border_mode=0"):
            InstanceDataset(records, augmentation=Augmentation(transforms))


@pytest.mark.parametrize("augmentation", [None, geometric()], ids=["plain", "augmented"])
@pytest.mark.parametrize("layout", ["coco", "label_maps"])
def test_cache_changes_no_sample(tmp_path, layout, augmentation):
    if layout == "coco":
        found = read_coco(write_coco(tmp_path / "data"), classes=CLASSES)[0]
    else:
        found = read_label_maps(write_label_maps(tmp_path / "data", num_folders=2))[0]
    plain = InstanceDataset(found, augmentation=augmentation)
    cached = InstanceDataset(found, augmentation=augmentation, cache_dir=tmp_path / "cache")
    for epoch in range(3):
        for index in range(len(found)):
            assert_same(cached[epoch, index, 0], plain[epoch, index, 0])


def test_cached_sample_needs_its_files_no_more_and_a_changed_file_is_read_anew(tmp_path, records):
    options = {"cache_dir": tmp_path / "cache"}
    data = InstanceDataset(records, **options)
    first = data[0, 0, 0]
    image = np.zeros((*records[0].truth.size, 3), np.uint8)
    cv2.imwrite(str(records[0].image_path), image)
    assert_same(data[0, 0, 0], first)
    assert (InstanceDataset(records, **options)[0, 0, 0]["image"] == 0).all()


def test_samples_of_a_batch_may_be_changed_without_changing_the_cache(tmp_path, records):
    data = InstanceDataset(records, cache_dir=tmp_path / "cache")
    first, second = data[0, 0, 0], data[0, 0, 0]
    for item in (first, second):
        batch = collate_instances([item])
        batch["image"][0].zero_()
        batch["target"][0]["masks"].zero_()
    assert_same(data[0, 0, 0], InstanceDataset(records)[0, 0, 0])


@pytest.mark.parametrize("size", [0, 5, 200, -3])
def test_torn_cache_file_is_made_anew(tmp_path, records, size):
    folder = tmp_path / "cache"
    data = InstanceDataset(records[:1], cache_dir=folder)
    first = data[0, 0, 0]
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert_same(data[0, 0, 0], first)
    assert path.read_bytes() == whole
    assert list(folder.iterdir()) == [path]


def test_cache_folder_that_cannot_be_used_is_a_user_error(tmp_path, records):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir=.* cannot be used: .*data\.cache_dir=null"):
        InstanceDataset(records, cache_dir=tmp_path / "file" / "below")
    data = InstanceDataset(records, cache_dir=tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir=.* cannot be used"):
        data[0, 0, 0]


def loader(records: list, *, num_workers: int, **options) -> DataLoader:
    data = InstanceDataset(records, **options)
    return DataLoader(
        data,
        batch_sampler=TrainBatches(len(records), batch_size=2, seed=0),
        num_workers=num_workers,
        collate_fn=collate_instances,
        persistent_workers=num_workers > 0,
    )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
def test_samples_are_the_same_for_any_number_of_workers(tmp_path, records):
    alone = loader(records, num_workers=0, augmentation=geometric())
    shared = loader(records, num_workers=2, augmentation=geometric(), cache_dir=tmp_path / "cache")
    for epoch in range(2):
        alone.batch_sampler.start_epoch(epoch)
        shared.batch_sampler.start_epoch(epoch)
        for one, two in zip(alone, shared, strict=True):
            assert one["ids"] == two["ids"]
            assert all(torch.equal(a, b) for a, b in zip(one["image"], two["image"], strict=True))
            for a, b in zip(one["target"], two["target"], strict=True):
                assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_of_another_size_ends_as_one_line_also_from_a_worker(records, num_workers):
    cv2.imwrite(str(records[1].image_path), np.zeros((7, 9, 3), np.uint8))
    height, width = make_scenes()[1].size
    with pytest.raises(UserError) as caught:
        list(loader(records, num_workers=num_workers))
    assert f"are {width} x {height} pixels but their image photo0_tile1.png is 9 x 7" in str(caught.value)
    assert "\n" not in str(caught.value)
    # Its frames keep the loader's iterator in a cycle, whose workers the collector would wait for.
    traceback.clear_frames(caught.tb)
