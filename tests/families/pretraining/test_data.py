"""Images for pre-training: cropped in training, resized in evaluation, cached in between."""

from __future__ import annotations

from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
from data_sets import build
from lesion_files import lesion

from polymask.data.module import DataModule
from polymask.data.sources import read_images
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.families.pretraining import Samples

DECODED, INPUT = (48, 48), (32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), lesion(60, 80, seed=number)[..., ::-1])
    return folder


def crop(*size: int) -> Augmentation:
    return Augmentation([A.RandomResizedCrop(size=size, scale=(0.2, 1.0)), A.RandomRotate90(p=1.0)])


def make(folder: Path, **options) -> DataModule:
    settings = {
        "reader": read_images,
        "data_dir": str(folder),
        "image_size": DECODED[0],
        "input_size": INPUT[0],
        "batch_size": 4,
        "fractions": (0.6, 0.2, 0.2),
        "augmentation": crop(*INPUT),
    }
    return build(Samples, **(settings | options))


def test_training_sees_crops_and_evaluation_the_whole_image(folder):
    data = make(folder)
    assert data.image_size == INPUT
    (batch,) = data.evaluation_loader("val")
    assert batch["image"].shape == (2, *INPUT, 3)
    for id_, image in zip(batch["ids"], batch["image"].numpy(), strict=True):
        file = cv2.imread(str(folder / f"{id_}.png"))[..., ::-1]
        twice = cv2.resize(cv2.resize(file, DECODED, interpolation=cv2.INTER_AREA), INPUT,
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        np.testing.assert_array_equal(image, twice)
    loader = data.train_loader()
    loader.start_epoch(0)
    first = np.concatenate([batch["image"].numpy() for batch in loader])
    loader.start_epoch(1)
    second = np.concatenate([batch["image"].numpy() for batch in loader])
    assert first.shape == second.shape == (4, *INPUT, 3)
    assert not np.array_equal(first, second)


def test_a_crop_is_a_function_of_epoch_and_sample_and_no_crop_is_turned(folder):
    data = make(folder, augmentation=Augmentation([A.CenterCrop(*INPUT)]))
    loader = data.train_loader()
    loader.start_epoch(3)
    for batch in loader:
        for id_, image in zip(batch["ids"], batch["image"].numpy(), strict=True):
            file = cv2.imread(str(folder / f"{id_}.png"))[..., ::-1]
            whole = cv2.resize(file, DECODED, interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(image, whole[8:40, 8:40])


def test_a_cache_changes_nothing_and_is_filled_once(folder, tmp_path):
    images = []
    for cache_dir in (None, str(tmp_path), str(tmp_path)):
        loader = make(folder, cache_dir=cache_dir).train_loader()
        loader.start_epoch(0)
        images.append({id_: image for b in loader for id_, image in zip(b["ids"], b["image"], strict=True)})
    assert len(list(tmp_path.glob("*.rows"))) == 1
    for found in images[1:]:
        assert found.keys() == images[0].keys()
        assert all(found[id_].equal(image) for id_, image in images[0].items())


def test_without_augmentation_training_sees_what_evaluation_sees(folder):
    data = make(folder, augmentation=None, overfit_samples=4)
    training = data.train_loader()
    training.start_epoch(0)
    seen, evaluated = (
        {id_: image for batch in loader for id_, image in zip(batch["ids"], batch["image"], strict=True)}
        for loader in (training, data.evaluation_loader("test"))
    )
    assert len(seen) == 4
    assert all(evaluated[id_].equal(image) for id_, image in seen.items())


@pytest.mark.parametrize(
    "augmentation",
    [crop(24, 24), crop(32, 24), Augmentation([A.HorizontalFlip()])],
    ids=["smaller", "of another shape", "none"],
)
def test_crops_of_another_size_than_the_networks_are_one_line(folder, augmentation):
    with pytest.raises(UserError, match=r"^the transforms make .* but the network takes 32 x 32 .*\.$"):
        make(folder, augmentation=augmentation).train_loader()


def test_a_size_that_is_none_is_one_line(folder):
    with pytest.raises(UserError, match=r"^data\.input_size=8 is not valid; give one side or"):
        make(folder, input_size=8)


def test_a_damaged_image_of_any_subset_stops_at_once(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "7.png").write_bytes((folder / "7.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"7\.png"):
        make(tmp_path)


def test_what_is_said_and_shown(folder):
    data = make(folder)
    assert data.description() == "10 images of 80 x 60 pixels, 8-bit"
    data.check_truth(frozenset({"image"}))
    original = next(data.original_samples())
    assert (original.image.shape, original.mask, original.class_names) == ((60, 80, 3), None, [])
    (row,) = data.augmented_samples(1, 2)
    assert [shown.image.shape for shown in row] == [(*INPUT, 3)] * 3
    assert {shown.mask is None for shown in row} == {True}
