from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_sets import MASKS, build
from PIL import Image

from polymask.data.module import DataModule
from polymask.data.sources import read_ham10000, read_label_maps
from polymask.errors import UserError
from polymask.families.multitask import Samples


def make_data(folder: Path, **options) -> DataModule:
    settings = {
        "reader": read_ham10000,
        "data_dir": str(folder),
        "classes": ["MEL", "NV", "BKL"],
        "image_size": [48, 64],
        "batch_size": 4,
        "fractions": (0.5, 0.25, 0.25),
    }
    return build(Samples, **(settings | options))


values = partial(read_label_maps, split="values")


def mask_files(folder: Path) -> list[Path]:
    return sorted((folder / "masks").iterdir())


def change_masks(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], ids: list[str] | None = None
) -> None:
    for path in mask_files(folder):
        if ids is None or path.name.removesuffix("_segmentation.png") in ids:
            Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def loaded_masks(data: DataModule) -> dict[str, np.ndarray]:
    loaders = [data.evaluation_loader(name) for name in ("train", "val", "test")]
    return {
        id_: mask
        for loader in loaders
        for batch in loader
        for id_, mask in zip(batch["ids"], batch["mask"].numpy(), strict=True)
    }


@pytest.fixture
def true_masks(lesion_folder: Path) -> dict[str, np.ndarray]:
    return {path.name[:12]: np.asarray(Image.open(path)) > 0 for path in mask_files(lesion_folder)}


@pytest.mark.parametrize(
    "change", [lambda m: m // 127, lambda m: m // 255, lambda m: m.astype(np.uint16) * 257]
)
def test_masks_reach_the_network_as_they_were_meant(lesion_folder, true_masks, change):
    change_masks(lesion_folder, change)
    data = make_data(lesion_folder)
    data.check_truth(MASKS)
    found = loaded_masks(data)
    assert found.keys() == true_masks.keys()
    for id_, mask in found.items():
        np.testing.assert_array_equal(mask, true_masks[id_])


def test_one_rule_holds_for_all_files(lesion_folder, true_masks):
    """A file that holds one class id alone is read by the rule of the set, not as 0 and 1."""
    change_masks(lesion_folder, lambda m: m // 255, ["ISIC_0000003"])
    change_masks(lesion_folder, lambda m: np.where(m > 0, 2, 0).astype(np.uint8), sorted(true_masks)[3:])
    with pytest.raises(
        UserError, match=r"Each has one value, but not the same: 1 files with 1, 21 files with 2, 2"
    ):
        make_data(lesion_folder).check_truth(MASKS)
    data = make_data(lesion_folder, mask_values=[2, 255])
    assert not loaded_masks(data)["ISIC_0000003"].any()
    np.testing.assert_array_equal(loaded_masks(data)["ISIC_0000009"], true_masks["ISIC_0000009"])


def test_jpeg_masks_are_read(lesion_folder, true_masks):
    for path in mask_files(lesion_folder):
        Image.open(path).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    data = make_data(lesion_folder)
    data.check_truth(MASKS)
    for id_, mask in loaded_masks(data).items():
        assert (mask != true_masks[id_]).mean() < 0.01


def test_cached_samples_are_read_anew_by_another_rule(lesion_folder, tmp_path):
    change_masks(
        lesion_folder, lambda m: np.where(m > 0, np.where(np.indices(m.shape)[0] > 24, 2, 1), 0).astype("u1")
    )
    options = {"cache_dir": str(tmp_path / "samples")}
    share = {}
    for name, value in {"1": [1], "2": [2], "both": "nonzero"}.items():
        masks = loaded_masks(make_data(lesion_folder, mask_values=value, **options))
        share[name] = np.mean([mask.mean() for mask in masks.values()])
    assert share["1"] + share["2"] == pytest.approx(share["both"])
    assert min(share.values()) > 0


@pytest.mark.parametrize("subset", ["train", "val", "test"])
@pytest.mark.parametrize(("value", "word"), [(0, "empty"), (255, "full")])
def test_subset_whose_masks_are_all_empty_or_all_full_is_refused(lesion_folder, subset, value, word):
    ids = make_data(lesion_folder).split.subsets[subset]
    change_masks(lesion_folder, lambda m: np.full_like(m, value), ids)
    data = make_data(lesion_folder)
    message = (
        rf"all {len(ids)} masks of the {subset} subset are {word}: .*All masks of the set hold 0 and 255\."
    )
    with pytest.raises(UserError, match=message):
        data.check_truth(MASKS)
    data.check_truth(MASKS, [name for name in ("train", "val", "test") if name != subset])


def test_remedy_of_a_subset_without_foreground_follows_the_other_subsets(lesion_folder):
    ids = make_data(lesion_folder).split.subsets["val"]
    change_masks(lesion_folder, np.zeros_like, ids)
    with pytest.raises(
        UserError, match=r"Choose the subsets otherwise \(data\.split_seed, .*or mend the masks"
    ):
        make_data(lesion_folder).check_truth(MASKS)
    change_masks(lesion_folder, np.zeros_like)
    with pytest.raises(UserError, match=r"Mend the masks, or say with data\.mask_values"):
        make_data(lesion_folder).check_truth(MASKS)


def test_one_mask_with_foreground_is_enough(lesion_folder):
    ids = make_data(lesion_folder).split.subsets["train"]
    change_masks(lesion_folder, np.zeros_like, ids[1:])
    make_data(lesion_folder).check_truth(MASKS)


def test_objects_without_any_pixel_are_refused_too(tmp_path):
    folder = tmp_path / "cells"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (16, 16)).save(folder / "images" / f"{number}.png")
        Image.new("L", (16, 16)).save(folder / "labels" / f"{number}.png")
    data = make_data(folder, reader=values, classes=[])
    with pytest.raises(UserError, match=r"none of the 4 train images .* holds an object") as caught:
        data.check_truth(MASKS)
    assert "mask_values" not in str(caught.value)  # which is not for objects
    with pytest.raises(
        UserError, match=r"data\.mask_values=nonzero is for mask files, but .* drawn from objects"
    ):
        make_data(folder, reader=values, classes=[], mask_values="nonzero")


def test_objects_are_drawn_once_and_then_remembered(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "cells"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (16, 16)).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) // 64).save(
            folder / "labels" / f"{number}.png"
        )
    options = {"reader": values, "classes": [], "cache_dir": str(tmp_path / "samples")}
    for _ in range(2):
        data = make_data(folder, **options)
        data.check_truth(MASKS)
        assert "8 masks drawn from objects, 75.0% foreground, 0 empty masks" in data.description()
    assert caplog.text.count("looked into 8 objects") == 1


@pytest.mark.parametrize(
    ("rename", "hint"),
    [
        (lambda path: path.with_stem(path.stem.replace("_segmentation", "_mask")), "ISIC_0000001_mask.png"),
        (lambda path: path.with_suffix(".gif"), "ISIC_0000001_segmentation.gif"),
        (None, None),
    ],
)
def test_no_masks_at_all_is_refused_with_the_names_looked_for_and_the_nearest(lesion_folder, rename, hint):
    for path in mask_files(lesion_folder):
        path.rename(rename(path)) if rename else path.unlink()
    data = make_data(lesion_folder)
    looked = (
        r"Looked for \{id\}_segmentation, \{id\}_Segmentation, \{id\} with \.jpg \.jpeg \.png .* in .*masks"
    )
    found = f"nearest to ISIC_0000001: {hint}" if hint else "it is empty"
    with pytest.raises(UserError, match=rf"none of the \d+ train images has a mask\. {looked}; {found}"):
        data.check_truth(MASKS)
    assert data.description().endswith("no masks")


def test_without_a_folder_of_masks_the_place_is_named(lesion_folder):
    shutil.rmtree(lesion_folder / "masks")
    with pytest.raises(
        UserError, match=r"Looked for .* in .*masks, which is not there\. .*a task that needs none"
    ):
        make_data(lesion_folder).check_truth(MASKS)


def test_some_images_without_mask_are_only_counted(lesion_folder, caplog):
    for path in mask_files(lesion_folder)[::4]:
        path.unlink()
    make_data(lesion_folder).check_truth(MASKS)
    assert "6 of 24 images have no mask." in caplog.text


@pytest.mark.parametrize("subset", ["train", "val", "test"])
def test_a_file_that_does_not_fit_is_found_at_once_in_any_subset(lesion_folder, caplog, subset):
    first, second, third = make_data(lesion_folder).split.subsets[subset][:3]
    mask = lesion_folder / "masks" / f"{first}_segmentation.png"
    mask.write_bytes(mask.read_bytes()[:40])
    image = lesion_folder / "images" / f"{second}.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    change_masks(lesion_folder, lambda m: m[:, 1:], [third])
    image_problem = image.name if cv2.imread(str(image)) is None else None
    with pytest.raises(UserError, match=r"of 24 image-mask pairs of .* do not fit: .*the log says"):
        make_data(lesion_folder)
    assert f"{first}: cannot read mask {mask}" in caplog.text
    assert "63 x 48 pixels but its image is 64 x 48" in caplog.text
    if image_problem:
        assert f"{second}: cannot read image {image}" in caplog.text


def test_pairs_turned_differently_are_refused_unless_each_has_its_own(lesion_folder, true_masks):
    path = lesion_folder / "masks" / "ISIC_0000002_segmentation.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    with pytest.raises(
        UserError, match=r"ISIC_0000002 .*orientation 3, but its image 1.*data\.mask_orientation=own"
    ):
        make_data(lesion_folder)
    data = make_data(lesion_folder, mask_orientation="own")
    np.testing.assert_array_equal(loaded_masks(data)["ISIC_0000002"], true_masks["ISIC_0000002"][::-1, ::-1])
    assert "0 images and 1 masks turned as their EXIF orientation says" in data.description()


def test_description_names_what_was_read(lesion_folder):
    change_masks(lesion_folder, lambda m: m // 255)
    change_masks(lesion_folder, np.zeros_like, ["ISIC_0000001", "ISIC_0000004"])
    share = np.mean([np.asarray(Image.open(path)) for path in mask_files(lesion_folder)])
    assert make_data(lesion_folder).description() == (
        f"24 images of 64 x 48 pixels, 8-bit, 24 8-bit masks (0 and 1), {share:.1%} foreground, 2 empty masks"
    )


def test_ambiguous_masks_do_not_matter_to_who_does_not_ask_but_are_named(lesion_folder):
    change_masks(lesion_folder, lambda m: m // 255, ["ISIC_0000001"])
    assert "ambiguous (the masks of" in make_data(lesion_folder).description()


def test_second_start_opens_no_file(lesion_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = {"cache_dir": str(tmp_path / "samples")}
    before = make_data(lesion_folder, **options)
    for path in [*mask_files(lesion_folder), *(lesion_folder / "images").iterdir()]:
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = make_data(lesion_folder, **options)
    after.check_truth(MASKS)
    assert after.description() == before.description()
    assert caplog.text.count("looked into") == 2


def test_absent_class_is_refused_unless_allowed(lesion_folder, caplog):
    classes = ["MEL", "NV", "BKL", "DF"]
    with pytest.raises(UserError, match=r"names 'DF', but no image of .* has that class"):
        make_data(lesion_folder, classes=classes)
    data = make_data(lesion_folder, classes=classes, allow_absent=True)
    assert [sum(counts) for counts in zip(*map(data.class_counts, data.split.subsets), strict=True)] == [
        8,
        8,
        8,
        0,
    ]
    assert "no image is of the class DF, which is absent: its metrics are undefined." in caplog.text


def test_a_reader_with_options_is_told_of_absent_classes(lesion_folder):
    reader = partial(read_ham10000, skip_missing=True)
    assert (
        make_data(lesion_folder, reader=reader, classes=["MEL", "DF"], allow_absent=True).class_counts(
            "test"
        )[1]
        == 0
    )
