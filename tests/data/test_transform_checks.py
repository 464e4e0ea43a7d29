"""Transforms that change type, channels, size or labels are refused before a training, all others are not."""

from __future__ import annotations

import random

import albumentations as A
import cv2
import numpy as np
import pytest
from albumentations.pytorch import ToTensorV2

from polymask.data.sources.label_maps import read_label_maps
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.families.instances.dataset import InstanceDataset

SIZE = (96, 128)
AS_MASKS = {"layers": False, "keep_size": True}
AS_OBJECTS = {"layers": True, "keep_size": False}
FAMILIES = pytest.mark.parametrize("family", [AS_MASKS, AS_OBJECTS], ids=["masks", "objects"])


def check(*transforms, **family) -> None:
    Augmentation(list(transforms)).check(lambda: SIZE, **family)


@FAMILIES
@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Normalize(), "Normalize turns the image from uint8 into float32; leave it out"),
        (A.Normalize(p=0.01), "Normalize turns the image from uint8 into float32"),
        (A.OneOf([A.HorizontalFlip(), A.Normalize()], p=0.1), "Normalize turns the image"),
        (A.ToFloat(max_value=255), "ToFloat turns the image from uint8 into float32"),
        (ToTensorV2(), "ToTensorV2 turns the image into a Tensor; leave it out"),
        (
            A.ToGray(num_output_channels=1),
            "ToGray turns the image of 3 channels into one of 1; .* num_output_channels=3",
        ),
        (A.Affine(rotate=(20, 30), mask_interpolation=1), "Affine puts values into the mask .*mask_interp"),
        (A.CoarseDropout(fill_mask=7), r"CoarseDropout puts values into the mask .*\(7\)"),
        (A.RandomCrop(500, 20), "RandomCrop cannot be applied to an image of 128 x 96 pixels: Crop size"),
    ],
)
def test_what_changes_types_or_labels_is_refused_for_every_family(transform, message, family) -> None:
    with pytest.raises(UserError, match=f"transforms: {message}") as caught:
        check(transform, **family)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "transform",
    [A.RandomCrop(32, 32), A.Resize(64, 64), A.PadIfNeeded(200, 200), A.LongestMaxSize(64), A.RandomScale()],
)
def test_another_size_is_refused_where_a_batch_has_one_and_fine_for_objects(transform) -> None:
    with pytest.raises(UserError, match=rf"{type(transform).__name__} changes the size from 128 x 96 to"):
        check(transform, **AS_MASKS)
    check(transform, **AS_OBJECTS)


@pytest.mark.parametrize(
    "transforms",
    [
        [A.RandomResizedCrop(SIZE)],
        [A.RandomCrop(40, 40, p=0.5), A.Resize(*SIZE)],
        [A.Sequential([A.RandomScale(), A.Resize(*SIZE)], p=0.5)],
        [A.ToFloat(max_value=255), A.FromFloat(dtype="uint8", max_value=255)],
        [A.PadIfNeeded(32, 32)],
        [A.CenterCrop(*SIZE)],
        [A.RandomRotate90(), A.Transpose()],
        [A.Normalize(p=0)],
        [A.ColorJitter(), A.ElasticTransform(), A.GaussNoise(), A.ToGray()],
    ],
)
def test_what_is_undone_by_the_others_is_fine(transforms) -> None:
    check(*transforms, **AS_MASKS)


def test_what_only_fails_with_the_others_is_refused() -> None:
    with pytest.raises(UserError, match=r"RandomCrop with the others cannot be applied .*Crop size"):
        check(A.RandomCrop(40, 40), A.RandomCrop(60, 60), **AS_OBJECTS)
    with pytest.raises(UserError, match="RandomCrop changes the size"):
        check(A.RandomCrop(40, 40), A.Resize(*SIZE, p=0.5), **AS_MASKS)


@FAMILIES
def test_trying_draws_from_no_global_generator_and_leaves_the_augmentation_alone(family) -> None:
    image, mask = np.zeros((*SIZE, 3), np.uint8), np.eye(*SIZE, dtype=np.uint8)
    image[::3] = 200
    augmentation, other = (
        Augmentation([A.RandomCrop(50, 50, p=0.5), A.Affine(), A.Resize(*SIZE)]) for _ in range(2)
    )
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    augmentation.check(lambda: SIZE, **family)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    for epoch in range(5):
        for one, two in zip(
            augmentation(image, mask, (0, epoch)), other(image, mask, (0, epoch)), strict=True
        ):
            np.testing.assert_array_equal(one, two)


def test_a_crop_of_objects_must_fit_the_smallest_image(tmp_path) -> None:
    for name, size in {"a": (100, 60), "b": (50, 90)}.items():
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), np.ones(size, np.uint8))
    records, _ = read_label_maps(tmp_path)
    InstanceDataset(records, augmentation=Augmentation([A.RandomCrop(50, 60)]))
    with pytest.raises(UserError, match="cannot be applied to an image of 60 x 50 pixels"):
        InstanceDataset(records, augmentation=Augmentation([A.RandomCrop(51, 60)]))


@pytest.mark.parametrize("channels", [1, 5, 7])
def test_any_number_of_greys_is_moved_and_what_needs_colours_is_refused(channels) -> None:
    options = {**AS_OBJECTS, "channels": channels}
    moves = [A.HorizontalFlip(), A.RandomRotate90(), A.Affine(rotate=(-30, 30)), A.ElasticTransform()]
    check(*moves, A.RandomBrightnessContrast(), A.GaussNoise(), A.GaussianBlur(), **options)
    with pytest.raises(UserError, match=f"ToGray.* {channels} channels"):
        check(A.ToGray(p=1.0), **options)
