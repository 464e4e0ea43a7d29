from __future__ import annotations

import traceback
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polymask.data.records import Record
from polymask.data.samplers import TrainBatches
from polymask.data.transforms import Augmentation
from polymask.data.truth import MaskFile
from polymask.errors import UserError
from polymask.families.multitask.dataset import ImageMaskDataset, collate

SIZE = (40, 60)


def write_sample(
    folder: Path, name: str, *, label: int = 0, masked: bool = True, mask_size: tuple[int, int] = SIZE
) -> Record:
    """An image of noise and a mask whose left half is lesion."""
    rng = np.random.default_rng(list(name.encode()))
    cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    mask = np.zeros(mask_size, np.uint8)
    mask[:, : mask_size[1] // 2] = 255
    cv2.imwrite(str(folder / f"{name}_mask.png"), mask)
    return Record(
        id=name,
        image_path=folder / f"{name}.png",
        truth=MaskFile(folder / f"{name}_mask.png") if masked else None,
        label=label,
        group=name,
    )


def get(record: Record, **options) -> dict:
    return ImageMaskDataset([record], **({"image_size": SIZE} | options))[0, 0, 0]


def test_sample_holds_image_and_mask_of_the_asked_size(tmp_path):
    sample = get(write_sample(tmp_path, "a", label=2), image_size=(32, 48))
    assert (sample["id"], sample["label"], sample["index"]) == ("a", 2, 0)
    assert (sample["image"].shape, sample["image"].dtype) == ((32, 48, 3), np.uint8)
    assert (sample["mask"].shape, sample["mask"].dtype) == ((32, 48), np.uint8)
    assert (sample["mask"][:, :24] == 1).all()
    assert (sample["mask"][:, 24:] == 0).all()


def test_image_is_rgb(tmp_path):
    sample = get(write_sample(tmp_path, "a"))
    np.testing.assert_array_equal(sample["image"], cv2.imread(str(tmp_path / "a.png"))[..., ::-1])


@pytest.mark.parametrize(
    ("multiclass", "label", "lesion"), [(False, 2, 1), (True, 0, 1), (True, 2, 3), (True, -1, 255)]
)
def test_lesion_pixels_carry_their_class_in_multiclass_masks(tmp_path, multiclass, label, lesion):
    mask = get(write_sample(tmp_path, "a", label=label), multiclass=multiclass)["mask"]
    assert mask.dtype == np.uint8
    assert (mask[:, :30] == lesion).all()
    assert (mask[:, 30:] == 0).all()


@pytest.mark.parametrize("multiclass", [False, True])
def test_sample_without_mask_is_ignored_everywhere_whatever_a_transform_fills_in(tmp_path, multiclass):
    shift = A.Affine(translate_px=(10, 10), border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=0, p=1.0)
    sample = get(
        write_sample(tmp_path, "a", masked=False), multiclass=multiclass, augmentation=Augmentation([shift])
    )
    assert (sample["image"][0] == 0).all()  # the transform did fill in
    assert (sample["mask"] == 255).all()


def test_mask_of_another_size_than_its_image_is_a_user_error_that_names_both(tmp_path):
    record = write_sample(tmp_path, "a", mask_size=(20, 30))
    with pytest.raises(UserError, match=r"a_mask\.png is 30 x 20 pixels but its image a\.png is 60 x 40"):
        get(record)


def test_collate_stacks_bytes_and_names_rows_with_mask_and_label(tmp_path):
    records = [
        write_sample(tmp_path, "a", label=1),
        write_sample(tmp_path, "b", label=-1),
        write_sample(tmp_path, "c", label=0, masked=False),
    ]
    data = ImageMaskDataset(records, image_size=SIZE)
    assert len(data) == 3
    batch = collate([data[0, index, 0] for index in range(3)])
    assert batch["ids"] == ["a", "b", "c"]
    assert (batch["image"].shape, batch["image"].dtype) == ((3, *SIZE, 3), torch.uint8)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((3, *SIZE), torch.uint8)
    assert (batch["label"].tolist(), batch["label"].dtype) == ([1, -1, 0], torch.int64)
    assert (batch["mask_rows"].tolist(), batch["mask_rows"].dtype) == ([0, 1], torch.int64)
    assert (batch["label_rows"].tolist(), batch["label_rows"].dtype) == ([0, 2], torch.int64)
    assert (batch["mask"][2] == 255).all()


def test_collate_of_complete_samples_has_no_rows(tmp_path):
    data = ImageMaskDataset([write_sample(tmp_path, name) for name in "ab"], image_size=SIZE)
    batch = collate([data[0, 0, 0], data[0, 1, 0]])
    assert batch["mask_rows"] is None
    assert batch["label_rows"] is None


def test_collate_of_samples_without_anything_has_empty_rows(tmp_path):
    data = ImageMaskDataset([write_sample(tmp_path, "a", label=-1, masked=False)], image_size=SIZE)
    batch = collate([data[0, 0, 0]])
    for rows in (batch["mask_rows"], batch["label_rows"]):
        assert (rows.tolist(), rows.dtype) == ([], torch.int64)


def flips() -> Augmentation:
    return Augmentation([A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=1.0)])


def test_augmentation_depends_on_epoch_index_repeat_and_seed(tmp_path):
    records = [write_sample(tmp_path, "a"), write_sample(tmp_path, "a")]
    options = {"image_size": SIZE, "augmentation": flips()}
    data, other = ImageMaskDataset(records, **options), ImageMaskDataset(records, seed=1, **options)
    images = [data[key]["image"] for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    images.append(other[0, 0, 0]["image"])
    assert len({image.tobytes() for image in images}) == 5
    np.testing.assert_array_equal(data[0, 0, 0]["image"], images[0])


@pytest.mark.parametrize("augmentation", [None, flips()])
@pytest.mark.parametrize("multiclass", [False, True])
def test_cache_changes_no_sample(tmp_path, augmentation, multiclass):
    records = [write_sample(tmp_path, "a", label=1), write_sample(tmp_path, "b", label=-1, masked=False)]
    options = {"image_size": (32, 48), "augmentation": augmentation, "multiclass": multiclass}
    plain = ImageMaskDataset(records, **options)
    cached = ImageMaskDataset(records, cache_dir=tmp_path / "cache", **options)
    for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 0)):
        expected, found = plain[key], cached[key]
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(found["mask"], expected["mask"])


def test_cached_sample_needs_its_files_no_more_and_a_changed_file_is_read_anew(tmp_path):
    record = write_sample(tmp_path, "a")
    options = {"image_size": SIZE, "cache_dir": tmp_path / "cache"}
    data = ImageMaskDataset([record], **options)
    first = data[0, 0, 0]["image"].copy()
    cv2.imwrite(str(record.image_path), np.zeros((*SIZE, 3), np.uint8))
    np.testing.assert_array_equal(data[1, 0, 0]["image"], first)
    assert (ImageMaskDataset([record], **options)[0, 0, 0]["image"] == 0).all()


def test_a_letterbox_is_ignored_in_its_padding_also_after_augmentation(tmp_path):
    record = write_sample(tmp_path, "a")
    cv2.imwrite(str(record.image_path), np.full((*SIZE, 3), 90, np.uint8))
    moved = [
        A.HorizontalFlip(p=0.5),
        A.RandomRotate90(p=0.5),
        A.Affine(translate_px={"x": (-9, 9), "y": (-9, 9)}, border_mode=cv2.BORDER_REFLECT_101, p=0.8),
    ]
    options = {"image_size": (60, 60), "fit": "letterbox", "augmentation": Augmentation(moved)}
    data = ImageMaskDataset([record], **options)
    shown = set()
    for epoch in range(8):
        sample = data[epoch, 0, 0]
        padding = sample["image"].max(axis=2) == 0
        np.testing.assert_array_equal(sample["mask"] == 255, padding)
        shown.add(padding.tobytes())
    assert len(shown) > 3
    plain = get(record, image_size=(60, 60), fit="letterbox")["mask"]
    assert (plain[10:50, :30] == 1).all()
    assert (plain[10:50, 30:] == 0).all()
    assert (plain[np.r_[:10, 50:60]] == 255).all()


def test_a_cache_of_letterboxes_is_another_one(tmp_path):
    record = write_sample(tmp_path, "a")
    options = {"image_size": (60, 60), "cache_dir": tmp_path / "cache"}
    for fit in ("stretch", "letterbox", "stretch"):
        plain = get(record, image_size=(60, 60), fit=fit)
        np.testing.assert_array_equal(get(record, fit=fit, **options)["mask"], plain["mask"])
    assert len(list((tmp_path / "cache").glob("*.rows"))) == 2


def loader(records: list[Record], *, num_workers: int, **options) -> DataLoader:
    batches = TrainBatches(len(records), batch_size=3, seed=0)
    data = ImageMaskDataset(records, image_size=SIZE, **options)
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
    )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
def test_samples_are_the_same_for_any_number_of_workers(tmp_path):
    records = [write_sample(tmp_path, f"s{number}", label=number % 3) for number in range(6)]
    alone = loader(records, num_workers=0, augmentation=flips())
    shared = loader(records, num_workers=2, augmentation=flips(), cache_dir=tmp_path / "cache")
    images = []
    for epoch in range(2):
        alone.batch_sampler.start_epoch(epoch)
        shared.batch_sampler.start_epoch(epoch)
        for one, two in zip(alone, shared, strict=True):
            assert one["ids"] == two["ids"]
            assert all(torch.equal(one[name], two[name]) for name in ("image", "mask", "label"))
            images += list(one["image"])
    assert len({image.numpy().tobytes() for image in images}) == 12


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_ends_as_one_line_also_from_a_worker(tmp_path, num_workers):
    records = [write_sample(tmp_path, f"s{number}") for number in range(3)]
    records[1].image_path.write_bytes(b"damaged")
    with pytest.raises(UserError) as caught:
        list(loader(records, num_workers=num_workers))
    message = f"cannot read image {records[1].image_path}: the file is missing, empty or damaged; "
    assert str(caught.value) == message + "replace or remove it."
    # Its frames keep the loader's iterator in a cycle, whose workers the collector would wait for.
    traceback.clear_frames(caught.tb)
