"""Masks as objects: what an object is, its class, and what is left out."""

from __future__ import annotations

import csv
import logging
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from data_sets import build
from isic_files import write_isic2016
from lesion_files import write_lesions
from scipy import ndimage

from polymask.data.module import DataModule
from polymask.data.sources import read_ham10000, read_image_masks, read_isic2016, read_mask_objects
from polymask.errors import UserError
from polymask.families import instances, multitask
from polymask.structures import rle

read_lesions = partial(read_mask_objects, masks=read_ham10000)
FIRST = "ISIC_0000001"


def mask_path(folder: Path, id_: str = FIRST) -> Path:
    return folder / "masks" / f"{id_}_segmentation.png"


def two_discs(folder: Path, value: int = 255) -> np.ndarray:
    """Replace the first mask by two discs of 81 and 25 pixels' boxes; return where they are."""
    mask = np.zeros((48, 64), np.uint8)
    cv2.circle(mask, (20, 20), 6, value, -1)
    cv2.circle(mask, (50, 30), 3, value, -1)
    cv2.imwrite(str(mask_path(folder)), mask)
    return mask > 0


def data_of(folder: Path, reader: Any = read_lesions, **options: Any) -> DataModule:
    return build(instances.Samples, reader=reader, data_dir=str(folder), classes=[], batch_size=2, **options)


def test_a_mask_is_one_object_of_one_class(lesion_folder: Path) -> None:
    whole = two_discs(lesion_folder)
    records, names = read_lesions(lesion_folder)
    assert names == ["lesion"]
    assert len(records) == 24
    for record in records:
        target = record.read_objects((48, 64)).to_target()
        truth = cv2.imread(str(mask_path(lesion_folder, record.id)), cv2.IMREAD_GRAYSCALE) > 0
        np.testing.assert_array_equal(target["masks"], truth[None])
        rows, columns = np.nonzero(truth)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(target["boxes"], [box])
        assert (target["labels"].tolist(), record.label) == ([0], 0)
    np.testing.assert_array_equal(records[0].read_mask(), whole)


def test_images_of_one_lesion_stay_together(lesion_folder: Path) -> None:
    data = data_of(lesion_folder, fractions=(0.5, 0.25, 0.25))
    rows = csv.DictReader(data.split.to_csv().splitlines())
    subsets: dict[str, set[str]] = {}
    for row in rows:
        subsets.setdefault(row["group"], set()).add(row["subset"])
    assert len(subsets) == 18
    assert all(len(own) == 1 for own in subsets.values())


def test_components_are_objects_of_their_own(lesion_folder: Path) -> None:
    whole = two_discs(lesion_folder)
    (first, *_), _ = read_lesions(lesion_folder, components=True)
    (other, *_), _ = read_lesions(lesion_folder)
    pieces, number = ndimage.label(whole, np.ones((3, 3)))
    found = first.read_objects().to_target()["masks"]
    np.testing.assert_array_equal(found, [pieces == piece for piece in range(1, number + 1)])
    assert number == 2
    assert first.content_key() != other.content_key()
    assert first.fingerprint() != other.fingerprint()


def test_an_empty_mask_is_an_image_without_objects(lesion_folder: Path) -> None:
    cv2.imwrite(str(mask_path(lesion_folder)), np.zeros((48, 64), np.uint8))
    for components in (False, True):
        (first, *_), _ = read_lesions(lesion_folder, components=components)
        assert first.read_objects().to_target()["masks"].shape == (0, 48, 64)
    assert (
        "23 objects in 24 images (1.0 per image), 1 without objects" in data_of(lesion_folder).description()
    )


def test_objects_of_the_class_of_their_image(lesion_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = lesion_folder / "metadata.csv"
    table.write_text(table.read_text().replace(f"{FIRST},mel", f"{FIRST},"))
    with caplog.at_level(logging.INFO):
        records, names = read_lesions(lesion_folder, classes=["NV", "MEL", "BKL"], by_diagnosis=True)
    assert names == ["NV", "MEL", "BKL"]
    assert [record.id for record in records if record.id == FIRST] == []
    assert "Left out 1 of 24 images: their class is unknown" in caplog.text
    assert sorted(record.label for record in records) == [0] * 8 + [1] * 7 + [2] * 8
    assert all(record.read_objects().labels.tolist() == [record.label] for record in records)


def test_a_name_for_the_only_class(lesion_folder: Path) -> None:
    assert read_lesions(lesion_folder, classes=["tumour"])[1] == ["tumour"]


def test_images_without_mask_are_not_taken_for_images_without_objects(
    lesion_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask_path(lesion_folder).unlink()
    records, _ = read_lesions(lesion_folder)
    assert len(records) == 23
    assert (
        f"1 of 24 images have no mask, so their objects are not known; they are left out: {FIRST}"
        in caplog.text
    )


def test_test_images_of_the_challenge_stay_the_test_subset(tmp_path: Path) -> None:
    reader = partial(read_mask_objects, masks=partial(read_isic2016, memory_dir=None))
    data = data_of(write_isic2016(tmp_path / "isic"), reader, fractions=(0.8, 0.2, 0.0))
    assert [len(data.split.subsets[name]) for name in ("train", "val", "test")] == [8, 2, 4]
    assert data.samples.classes == ["lesion"]


def test_one_rule_reads_the_values_of_all_masks(lesion_folder: Path) -> None:
    for path in (lesion_folder / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        lesion = np.where(mask > 0, 2, 1).astype(np.uint8)  # 1 is skin here
        cv2.imwrite(str(path), lesion)
    with pytest.raises(UserError, match=r"the masks of .* hold 1 \(.*\), 2 \(.*\)\. .*data\.mask_values"):
        data_of(lesion_folder)
    data = data_of(lesion_folder, mask_values=[2])
    assert "24 8-bit masks (1 (" in data.description()
    (target,) = [data.samples.records[0].read_objects().to_target()]
    truth = cv2.imread(str(mask_path(lesion_folder)), cv2.IMREAD_GRAYSCALE) == 2
    np.testing.assert_array_equal(target["masks"], truth[None])


def test_a_mask_of_another_size_is_named_before_the_first_epoch(lesion_folder: Path) -> None:
    cv2.imwrite(str(mask_path(lesion_folder)), np.full((40, 64), 255, np.uint8))
    with pytest.raises(UserError, match=rf"1 of 24 .* do not fit: {FIRST} .*64 x 40 .* 64 x 48"):
        data_of(lesion_folder)


def test_networks_for_masks_learn_from_the_same_records(lesion_folder: Path) -> None:
    options = {"data_dir": str(lesion_folder), "classes": [], "image_size": 32, "batch_size": 2}
    data = build(multitask.Samples, reader=read_lesions, **options)
    mask = data.samples.records[0].read_mask()
    assert mask.any()
    assert rle.area(rle.encode(mask)) == np.count_nonzero(cv2.imread(str(mask_path(lesion_folder)), 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"classes": ["MEL", "NV"]},
            "all masks are of one class; give one name, or set data.reader.by_diagnosis",
        ),
        ({"by_diagnosis": True}, "data.reader.by_diagnosis=true needs the classes of the images"),
        ({"by_diagnosis": True, "classes": ["XYZ"]}, "'XYZ'"),
    ],
)
def test_classes_that_do_not_fit(lesion_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_lesions(lesion_folder, **options)


def test_no_masks_at_all(tmp_path: Path) -> None:
    folder = write_lesions(tmp_path / "a")
    for path in (folder / "masks").iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match=r"none of the 24 images of .* has a mask\. Looked for \{id\}_segmentation"
    ):
        read_lesions(folder)


def test_masks_without_images(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match=r"images is not there: images/\{id\}\.jpg"):
        read_image_masks(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="images holds no images"):
        read_image_masks(tmp_path)
    with pytest.raises(UserError, match="plain masks have no classes"):
        read_image_masks(tmp_path, classes=["A"])
