from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from instance_files import EMPTY, OVERLAPPING, make_scenes, write_label_maps
from PIL import Image

from polymask.data.images import read_image
from polymask.data.sources.label_maps import read_label_map, read_label_maps
from polymask.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_label_maps(tmp_path / "maps", num_folders=3)


def by_id(folder: Path, **options) -> dict:
    return {record.id: record for record in read_label_maps(folder, **options)[0]}


def test_each_image_is_a_record_with_label_0_and_its_own_group(folder):
    records, names = read_label_maps(folder)
    assert names == ["object"]
    assert [record.id for record in records] == sorted(scene.name for scene in make_scenes())
    assert all(record.label == 0 and record.group == record.id for record in records)
    assert {record.truth.path.suffix for record in records} == {".png", ".tif", ""}
    assert pickle.loads(pickle.dumps(records)) == records


def test_the_only_class_may_be_renamed_but_not_divided(folder):
    assert read_label_maps(folder, classes=["nucleus"])[1] == ["nucleus"]
    with pytest.raises(UserError, match=r"data\.classes=\['a', 'b'\].*one class.*data=coco"):
        read_label_maps(folder, classes=["a", "b"])


def visible_masks(scene, *, overlap: bool) -> list[np.ndarray]:
    """The masks as written: in a label map later objects hide earlier ones."""
    masks = [mask for mask, shape in zip(scene.masks(), scene.shapes, strict=True) if not shape.crowd]
    if overlap:
        return masks
    hidden = [np.any([*masks[index + 1 :], np.zeros(scene.size)], axis=0) for index in range(len(masks))]
    return [mask * ~above for mask, above in zip(masks, hidden, strict=True)]


def test_objects_are_those_that_were_drawn(folder):
    records = by_id(folder)
    for number, scene in enumerate(make_scenes()):
        target = records[scene.name].read_objects(scene.size).to_target()
        expected = visible_masks(scene, overlap=number >= 3)
        assert len(target["masks"]) == len(expected)
        for mask, wanted in zip(target["masks"], expected, strict=True):
            np.testing.assert_array_equal(mask, wanted)


def test_folder_of_masks_keeps_overlapping_objects_whole(folder):
    scene = make_scenes()[OVERLAPPING]
    objects = by_id(folder)[scene.name].read_objects(scene.size)
    assert objects.layers.shape[-1] == 2
    assert objects.to_target()["masks"].sum(axis=0).max() == 2


@pytest.mark.parametrize("num_folders", [0, 6])
def test_union_mask_needs_no_image_size(tmp_path, num_folders):
    records = by_id(write_label_maps(tmp_path / "maps", num_folders=num_folders))
    for number, scene in enumerate(make_scenes()):
        drawn = [mask for mask, shape in zip(scene.masks(), scene.shapes, strict=True) if not shape.crowd]
        union = np.any([np.zeros(scene.size), *drawn], axis=0)
        np.testing.assert_array_equal(records[scene.name].read_mask(), union)
        assert union.any() == (number != EMPTY)
        np.testing.assert_array_equal(records[scene.name].read_class_mask(), union)


def test_empty_masks_of_a_folder_are_left_out_and_counted(folder, caplog):
    scene = make_scenes()[4]
    record = by_id(folder)[scene.name]
    cv2.imwrite(str(record.truth.path / "none.png"), np.zeros(scene.size, np.uint8))
    target = record.read_objects(scene.size).to_target()
    assert len(target["masks"]) == len(scene.shapes)
    assert f"1 of {len(scene.shapes) + 1} masks are empty" in caplog.text


NUMBERS = np.array([[0, 0, 3], [3, 200, 200]])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", NUMBERS.astype(np.uint8)),
        ("a.png", NUMBERS.astype(np.uint16) * 300),
        ("a.tif", NUMBERS.astype(np.uint8)),
        ("a.tiff", NUMBERS.astype(np.uint16) * 300),
        ("a.tif", NUMBERS.astype(np.int32) * 10**6),
        ("a.tif", NUMBERS.astype(np.uint32) * 10**7),
        ("a.tif", NUMBERS.astype(np.float32)),
    ],
)
def test_label_maps_of_all_depths_are_read_exactly(tmp_path, name, values):
    cv2.imwrite(str(tmp_path / name), values)
    np.testing.assert_array_equal(read_label_map(tmp_path / name), values)


def test_palette_and_repeated_channels_give_numbers_not_colours(tmp_path):
    image = Image.fromarray(NUMBERS.astype(np.uint8)).convert("P")
    image.putpalette([value for number in range(256) for value in (255 - number, number // 2, 7)])
    image.putdata(NUMBERS.ravel().tolist())
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "palette.png"), NUMBERS)
    repeated = np.stack([NUMBERS, NUMBERS, NUMBERS], axis=-1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "rgb.png"), repeated)
    np.testing.assert_array_equal(read_label_map(tmp_path / "rgb.png"), NUMBERS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, -4]], np.int32), r"has values such as -4; .*positive whole number"),
        (np.array([[0.5, 1]], np.float32), r"has values such as 0\.5; "),
        (np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "has colours; it must have one channel"),
    ],
)
def test_values_that_are_no_object_numbers_are_a_user_error(tmp_path, values, message):
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    with pytest.raises(UserError, match=rf"label map .*a\.tif {message}"):
        read_label_map(tmp_path / "a.tif")


def test_damaged_label_map_is_a_user_error(folder):
    record = by_id(folder)["photo0_tile0"]
    record.truth.path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read label map .*photo0_tile0\.png: .*damaged"):
        record.read_objects()


@pytest.mark.parametrize("name", ["photo0_tile0", "photo2_tile0"], ids=["label map", "folder"])
def test_labels_of_another_size_than_the_image_are_a_user_error(folder, name):
    record = by_id(folder)[name]
    height, width = read_image(record.image_path).shape[:2]
    with pytest.raises(UserError, match=rf"{name}.* are {width} x {height} pixels but .* is {width + 1} x"):
        record.read_objects((height, width + 1))


def test_missing_labels_are_counted_and_named(folder):
    path = folder / "labels" / "photo0_tile0.png"
    path.rename(path.with_name("photo0_tile0_mask.png"))
    with pytest.raises(
        UserError,
        match=r"1 of 6 images of .* have no labels in labels/: photo0_tile0; "
        r"nearest to photo0_tile0: photo0_tile0_mask\.png\. Expected are ",
    ):
        read_label_maps(folder)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_missing_folder_is_a_user_error_that_shows_the_layout(folder, name):
    (folder / name).rename(folder / "other")
    with pytest.raises(UserError, match=rf"{name} is not a folder\. Label maps are read from images/"):
        read_label_maps(folder)


def test_folder_without_images_is_a_user_error(folder):
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="there are no images"):
        read_label_maps(folder)


def test_labels_without_image_are_noted(folder, caplog):
    (folder / "images" / "photo1_tile1.png").unlink()
    assert len(read_label_maps(folder)[0]) == 5
    assert "1 label maps in" in caplog.text


def test_group_pattern_takes_the_first_group_or_the_whole_match(folder):
    for pattern in (r"(photo\d+)_", r"^photo\d+"):
        groups = {record.id: record.group for record in read_label_maps(folder, group_pattern=pattern)[0]}
        assert groups == {id_: id_.split("_")[0] for id_ in groups}


def test_images_that_the_pattern_does_not_match_are_their_own_group(folder, caplog):
    groups = {record.id: record.group for record in read_label_maps(folder, group_pattern="photo[01]")[0]}
    assert groups["photo2_tile1"] == "photo2_tile1"
    assert groups["photo1_tile0"] == groups["photo1_tile1"] == "photo1"
    assert "does not match 2 file names" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_pattern": "("}, r"group_pattern='\(' is no regular expression"),
        ({"group_pattern": "scan"}, r"group_pattern='scan' matches none of the 6 file names, e\.g\. 'photo0"),
        ({"group_pattern": "p", "group_table": "t.csv"}, "are both given; keep one"),
        ({"group_column": "slide"}, r"group_column='slide' needs a table"),
        ({"group_table": "gone.csv"}, r"gone\.csv cannot be read"),
        ({"group_table": "groups.csv", "group_column": "slides"}, "no column 'slides'.*Did you mean 'slide'"),
        ({"group_table": "groups.csv", "group_column": "slide"}, "no group for 4 of 6 images: photo1_tile0"),
        ({"group_table": "nameless.csv"}, "no column id or image_id or image or file_name"),
    ],
)
def test_wrong_group_rules_are_user_errors(folder, options, message):
    (folder / "groups.csv").write_text("id,slide\nphoto0_tile0,A\nphoto0_tile1,A\n")
    (folder / "nameless.csv").write_text("name,group\na,A\n")
    with pytest.raises(UserError, match=message):
        read_label_maps(folder, **options)


def test_group_table_goes_by_id_or_file_name_and_empty_means_alone(folder):
    names = [scene.name for scene in make_scenes()]
    for column, suffix in (("id", ""), ("file_name", ".png")):
        rows = [f"{name}{suffix},{'S1' if number < 3 else ''}" for number, name in enumerate(names)]
        (folder / "groups.csv").write_text("\n".join([f"{column},Group", *rows]) + "\n")
        records = by_id(folder, group_table="groups.csv")
        assert [records[name].group for name in names] == ["S1"] * 3 + names[3:]


def test_content_key_follows_image_label_map_and_each_mask_of_a_folder(folder):
    records = by_id(folder)
    for record in (records["photo0_tile0"], records["photo2_tile0"]):
        keys = {record.content_key()}
        mask = record.truth.path if record.truth.path.is_file() else next(record.truth.path.glob("*.png"))
        for path in (record.image_path, mask):
            assert record.content_key() in keys
            os.utime(path, ns=(1, 1))
            keys.add(record.content_key())
        assert len(keys) == 3


def test_reading_records_decodes_nothing(folder, caplog):
    caplog.set_level(logging.WARNING)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"not decoded")
    assert len(read_label_maps(folder, split="values")[0]) == 6
    assert not caplog.records


def test_fingerprint_depends_on_files_and_on_no_path(folder, tmp_path):
    prints = {id_: record.fingerprint() for id_, record in by_id(folder).items()}
    records = by_id(folder.rename(tmp_path / "elsewhere"))
    assert {id_: record.fingerprint() for id_, record in records.items()} == prints
    with records["photo0_tile0"].truth.path.open("ab") as file:
        file.write(b"0")
    next(records["photo2_tile0"].truth.path.glob("*.png")).unlink()
    changed = {id_ for id_, record in records.items() if record.fingerprint() != prints[id_]}
    assert changed == {"photo0_tile0", "photo2_tile0"}
