from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from isic_files import isic_folders, write_isic2016

from polymask.data.records import Record
from polymask.data.sources import read_isic2016
from polymask.errors import UserError


@pytest.fixture
def folder(project: Path) -> Path:
    return write_isic2016(project / "isic")


def read_records(folder: Path, classes: list[str], **options: Any) -> list[Record]:
    records, names = read_isic2016(folder, classes=classes, **options)
    assert names == classes
    return records


def mask_path(folder: Path, number: int, part: str = "Training") -> Path:
    return isic_folders(folder, part)[1] / f"ISIC_{number:07d}_Segmentation.png"


def test_records_of_both_parts_in_the_folders_of_the_challenge(folder):
    records = read_records(folder, [])
    assert [record.id for record in records] == [f"ISIC_{number:07d}" for number in range(14)]
    assert [record.subset for record in records] == [None] * 10 + ["test"] * 4
    for record in records:
        part = "Test" if record.subset else "Training"
        stem = folder / f"ISBI2016_ISIC_Part1_{part}"
        assert record.image_path == Path(f"{stem}_Data/{record.id}.jpg")
        assert record.truth.mask_file == Path(f"{stem}_GroundTruth/{record.id}_Segmentation.png")
        assert (record.label, record.group) == (-1, record.id)


def test_other_numbers_of_images_than_those_of_the_challenge_are_a_note(folder, caplog):
    caplog.set_level(logging.INFO)
    read_records(folder, [])
    assert caplog.messages[-1] == (
        f"images in {folder}: Training 10, Test 4; the challenge has Training 900, Test 379"
    )
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.parametrize("kinds", [(0,), (1,), (0, 1)])
def test_without_a_test_folder_there_is_no_test_record_but_a_warning(folder, caplog, kinds):
    for kind in kinds:
        shutil.rmtree(isic_folders(folder, "Test")[kind])
    assert [record.subset for record in read_records(folder, [])] == [None] * 10
    names = [isic_folders(folder, "Test")[kind].name for kind in kinds]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{folder} has no folder {' and no '.join(names)}: the test subset is empty."]


@pytest.mark.parametrize("kind", [0, 1])
def test_missing_training_folder_is_named(folder, kind):
    missing = isic_folders(folder)[kind]
    shutil.rmtree(missing)
    with pytest.raises(UserError, match=rf"isic has no folder {missing.name}\. Put the challenge's folders"):
        read_records(folder, [])


def test_missing_data_set_is_named(tmp_path):
    message = r"data\.data_dir='.*none' is not a folder\. .*ISBI2016_ISIC_Part1_Test_GroundTruth there"
    with pytest.raises(UserError, match=message):
        read_records(tmp_path / "none", [])


def test_empty_folders_are_named(folder):
    for path in isic_folders(folder):
        shutil.rmtree(path)
        path.mkdir()
    with pytest.raises(UserError, match=r"Training_GroundTruth are empty\. Put ISIC_\*\.jpg"):
        read_records(folder, [])


def test_classes_are_refused(folder):
    with pytest.raises(
        UserError, match=r"data\.classes=\['MEL'\], but .* masks only; give data\.classes=\[\]"
    ):
        read_records(folder, ["MEL"])


def damage(folder: Path) -> None:
    """One mistake of each kind, in both parts."""
    images, _ = isic_folders(folder)
    mask_path(folder, 0).unlink()
    (images / "ISIC_0000001.jpg").unlink()
    mask_path(folder, 2).rename(mask_path(folder, 2).with_name("ISIC_0000002_segmentation.png"))
    cv2.imwrite(str(mask_path(folder, 3)), np.zeros((24, 32), np.uint8))
    mask = cv2.imread(str(mask_path(folder, 4)), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(mask_path(folder, 4)), cv2.GaussianBlur(mask, (5, 5), 0))
    (images / "ISIC_0000005.jpg").write_bytes(b"")
    mask = cv2.imread(str(mask_path(folder, 10, "Test")), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(mask_path(folder, 10, "Test")), mask // 255)
    for part in range(2):
        name = isic_folders(folder, "Test")[part]
        other = name.iterdir()
        shutil.copy(next(path for path in other if "0000012" in path.name), isic_folders(folder)[part])


def test_every_offender_of_every_kind_is_named_before_the_run_stops(folder, caplog):
    damage(folder)
    message = (
        r"^9 of 15 image-mask pairs of .*isic do not fit: ISIC_0000000, ISIC_0000001, ISIC_0000002, "
        r"ISIC_0000002_segmentation\.png, ISIC_0000003 and 4 more .*data\.reader\.verify_pairs=false"
    )
    for _ in range(2):
        caplog.clear()
        with pytest.raises(UserError, match=message):
            read_records(folder, [])
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        expected = {
            "ISIC_0000000": "no mask ISIC_0000000_Segmentation.png in",
            "ISIC_0000001": "no image ISIC_0000001.jpg in",
            "ISIC_0000002": "no mask ISIC_0000002_Segmentation.png in",
            "ISIC_0000002_segmentation.png": "but not named *_Segmentation.png",
            "ISIC_0000003": "is 32 x 24 pixels but its image is 64 x 48",
            "ISIC_0000004": "has values other than 0 and 255",
            "ISIC_0000005": "cannot read image",
            "ISIC_0000010": "of it: 1",
            "ISIC_0000012": "both in the training and in the test data",
        }
        assert [line.split(":")[0] for line in errors] == list(expected)
        assert all(text in line for line, text in zip(errors, expected.values(), strict=True))


def test_what_passed_is_remembered_below_the_project_root(folder, project, caplog):
    caplog.set_level(logging.INFO)
    read_records(folder, [])
    assert len(list((project / ".cache" / "samples" / "facts").glob("*.json"))) == 1
    assert f"looked into 14 images of {folder}, 0 known from before" in caplog.text
    assert f"looked into 14 masks of {folder}, 0 known from before" in caplog.text
    caplog.clear()
    read_records(folder, [])
    assert "looked into" not in caplog.text
    mask_path(folder, 0).touch()
    read_records(folder, [])
    assert f"looked into 1 masks of {folder}, 13 known from before" in caplog.text
    assert caplog.text.count("looked into") == 1


def test_without_a_memory_every_pair_is_looked_at_each_time(folder, project, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(2):
        read_records(folder, [], memory_dir=None)
    assert caplog.text.count("looked into 14 images") == 2
    assert not (project / ".cache").exists()


def test_unverified_pairs_are_matched_by_name_only(folder, project, caplog):
    mask_path(folder, 0).unlink()
    mask_path(folder, 4).write_bytes(b"")
    records = read_records(folder, [], verify_pairs=False)
    assert [record.id for record in records] == [f"ISIC_{number:07d}" for number in range(1, 14)]
    assert f"image files without partner in {folder}, which are left out: 1" in caplog.messages
    assert not (project / ".cache").exists()
