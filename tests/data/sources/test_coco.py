from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instance_files import CATEGORY_IDS, CLASSES, CROWDED, EMPTY, make_scenes, run_lengths, write_coco
from pycocotools.coco import COCO

from polymask.data.sources import read_coco
from polymask.errors import UserError

# pycocotools speaks to NumPy in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the annotation file."""
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_annotation(folder: Path, number: int = 0, **fields) -> None:
    edit(folder, lambda content: content["annotations"][number].update(fields))


def open_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def assert_equal_to_pycocotools(records, annotations: Path, category_of: dict[int, int]) -> None:
    """Compare masks, boxes, classes and crowds of all images; `category_of` gives the id of a label."""
    coco = open_coco(annotations)
    for record in records:
        entry = coco.imgs[record.truth.image_number]
        expected = [a for a in coco.imgToAnns[entry["id"]] if a["category_id"] in category_of.values()]
        masks = [coco.annToMask(annotation) for annotation in expected]
        target = record.read_objects((entry["height"], entry["width"])).to_target()
        assert [category_of[label] for label in target["labels"].tolist()] == [
            annotation["category_id"] for annotation in expected
        ]
        assert target["crowd"].tolist() == [bool(annotation["iscrowd"]) for annotation in expected]
        for index, mask in enumerate(masks):
            np.testing.assert_array_equal(target["masks"][index], mask)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert target["boxes"][index].tolist() == box


def test_objects_equal_those_of_pycocotools(folder):
    records, names = read_coco(folder)
    category_of = {0: 3, 1: 5, 2: 7}  # the used ones in the order of their ids
    assert names == ["Fiber", "Film", "Fragment"]
    assert sum(len(record.truth.objects) for record in records) >= 12
    assert_equal_to_pycocotools(records, folder / "annotations.json", category_of)


def test_named_classes_set_the_labels_and_leave_the_others_out_with_a_count(folder, caplog):
    caplog.set_level(logging.INFO)
    records, names = read_coco(folder, classes=["Fragment", "Fiber"])
    assert names == ["Fragment", "Fiber"]
    assert records[0].truth.category_ids == (7, 3)
    assert_equal_to_pycocotools(records, folder / "annotations.json", {0: 7, 1: 3})
    num_films = sum(shape.label == 2 for scene in make_scenes() for shape in scene.shapes)
    assert f"Left out {num_films} objects of categories that are not in use: Film {num_films}" in caplog.text
    assert "categories without objects: Bead (9)" in caplog.text


def test_records_have_names_labels_numbers_and_survive_pickling(folder):
    records = read_coco(folder, classes=CLASSES)[0]
    scenes = {scene.name: scene for scene in make_scenes()}
    assert [record.id for record in records] == sorted(scenes)
    assert {record.truth.image_number for record in records} == set(range(100, 106))
    assert records[0].truth.category_ids == CATEGORY_IDS
    for record in records:
        labels = [shape.label for shape in scenes[record.id].shapes if not shape.crowd]
        counts = [labels.count(label) for label in range(3)]
        assert record.label == (int(np.argmax(counts)) if labels else -1)
        assert (record.image_path, record.truth.path) == (
            folder / "images" / f"{record.id}.png",
            folder / "annotations.json",
        )
    assert pickle.loads(pickle.dumps(records)) == records


def test_union_mask_ignores_the_crowd_and_class_mask_holds_the_classes(folder):
    records = {record.id: record for record in read_coco(folder, classes=CLASSES)[0]}
    coco = open_coco(folder / "annotations.json")
    for number, scene in enumerate(make_scenes()):
        found = coco.imgToAnns[100 + number]
        objects = [coco.annToMask(a) for a in found if not a["iscrowd"]]
        crowds = [coco.annToMask(a) for a in found if a["iscrowd"]]
        union = np.any([np.zeros(scene.size), *objects], axis=0)
        crowd = np.any([np.zeros(scene.size), *crowds], axis=0)
        expected = np.where(union, 1, np.where(crowd, 255, 0))
        record = records[scene.name]
        np.testing.assert_array_equal(record.read_mask(), expected)
        assert (expected == 255).any() == (number == CROWDED)
        assert union.any() == (number != EMPTY)
        classes = record.read_class_mask()
        np.testing.assert_array_equal((classes > 0) & (classes < 255), union)
        in_use = {shape.label + 1 for shape in scene.shapes if not shape.crowd}
        assert set(np.unique(classes)) - {0, 255} == in_use


def test_polygons_of_several_parts_and_compressed_runs_are_one_object_each(folder):
    coco = open_coco(folder / "annotations.json")
    runs = coco.annToRLE(coco.anns[2]) | {"size": list(make_scenes()[0].size)}
    runs["counts"] = runs["counts"].decode()
    parts = [[1, 1, 9, 1, 9, 6], [20, 20, 28, 20, 28, 29], [3, 3, 4, 4]]
    change_annotation(folder, 0, segmentation=parts)
    change_annotation(folder, 1, segmentation=runs)
    clean = [part for part in parts if len(part) > 4]  # pycocotools would take the last for a box
    records = read_coco(folder, classes=CLASSES)[0]
    change_annotation(folder, 0, segmentation=clean)
    category_of = dict(enumerate(CATEGORY_IDS))
    assert_equal_to_pycocotools(records, folder / "annotations.json", category_of)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[5, 5, 5, 5, 5, 5]],
        [[5, 5, 9, 9]],
        [[-30, -30, -20, -30, -20, -20]],
        [[5, 5, 9, 5, 12, 5]],
        run_lengths(np.zeros(make_scenes()[0].size)),
    ],
    ids=["point", "two points", "outside", "line", "empty runs"],
)
def test_objects_without_area_are_dropped_and_counted(folder, caplog, segmentation):
    before = sum(len(record.truth.objects) for record in read_coco(folder)[0])
    change_annotation(folder, segmentation=segmentation)
    after = sum(len(record.truth.objects) for record in read_coco(folder)[0])
    assert after == before - 1
    assert f"left out 1 of {before} objects: 1 cover no pixel, 0 have no mask" in caplog.text


@pytest.mark.parametrize("segmentation", [None, [], {}])
def test_objects_with_a_box_only_are_dropped_and_counted_unless_all_are(folder, caplog, segmentation):
    change_annotation(folder, segmentation=segmentation)
    read_coco(folder)
    assert "0 cover no pixel, 1 have no mask" in caplog.text
    edit(folder, lambda c: [a.update(segmentation=segmentation) for a in c["annotations"]])
    with pytest.raises(UserError, match="has boxes only; instance segmentation needs polygons"):
        read_coco(folder)


def test_two_categories_of_one_name_are_one_class(folder, caplog):
    # Where only one of them has objects, as in files of Roboflow, nothing is to be said.
    edit(folder, lambda content: content["categories"].append({"id": 0, "name": "Fiber"}))
    for classes in ((), ("Fiber", "Film", "Fragment")):
        records, names = read_coco(folder, classes=classes)
        assert names == ["Fiber", "Film", "Fragment"]
        assert records[0].truth.category_ids == (3, 5, 7)
        assert_equal_to_pycocotools(records, folder / "annotations.json", {0: 3, 1: 5, 2: 7})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    change_annotation(folder, category_id=0)
    assert read_coco(folder)[1] == ["Fiber", "Film", "Fragment"]
    assert "2 categories are named Fiber; they are one class" in caplog.text


def test_class_without_objects_is_kept_when_it_is_named(folder, caplog):
    records, names = read_coco(folder, classes=["Bead", "Film"])
    assert (names, records[0].truth.category_ids) == (["Bead", "Film"], (9, 5))
    assert {item.label for record in records for item in record.truth.objects} == {1}
    assert "no object is of the class Bead" in caplog.text


def test_unknown_and_repeated_class_names_are_user_errors(folder):
    with pytest.raises(
        UserError, match=r"names 'fibre', .* no category.* Did you mean 'Fiber'\? Found: Fiber"
    ):
        read_coco(folder, classes=["fibre"])
    with pytest.raises(UserError, match="repeats a class"):
        read_coco(folder, classes=["Film", "Film"])


@pytest.mark.parametrize("where", ["_annotations.coco.json", "annotations/train.json", "deep/x.json"])
def test_annotation_file_is_found_by_its_name_or_given(folder, where):
    expected = [record.id for record in read_coco(folder)[0]]
    (folder / where).parent.mkdir(exist_ok=True)
    (folder / "annotations.json").rename(folder / where)
    if where.startswith("deep"):
        with pytest.raises(
            UserError, match=r"no annotations\.json .* data\.reader\.annotations, found: deep"
        ):
            read_coco(folder)
        assert [record.id for record in read_coco(folder, annotations=where)[0]] == expected
        with pytest.raises(UserError, match=r"data\.reader\.annotations='no\.json': there is no file"):
            read_coco(folder, annotations="no.json")
    else:
        assert [record.id for record in read_coco(folder)[0]] == expected


def test_several_annotation_files_must_be_chosen_from(folder):
    (folder / "annotations").mkdir()
    for name in ("a", "b"):
        (folder / "annotations" / f"{name}.json").write_text("{}")
    (folder / "annotations.json").unlink()
    with pytest.raises(UserError, match=r"found: annotations/a\.json, annotations/b\.json"):
        read_coco(folder)


@pytest.mark.parametrize("where", [".", "images", "sub"])
def test_images_are_found_beside_the_file_in_images_or_where_the_name_says(folder, where):
    target = folder / where
    target.mkdir(exist_ok=True)
    for path in list((folder / "images").iterdir()):
        path.rename(target / path.name)
    if where == "sub":
        edit(folder, lambda c: [i.update(file_name=f"sub\\{i['file_name']}") for i in c["images"]])
    records = read_coco(folder)[0]
    assert all(record.image_path.is_file() for record in records)
    assert records[0].id == "photo0_tile0"


def test_names_that_repeat_in_several_folders_carry_the_folder(folder):
    (folder / "images" / "b").mkdir()
    (folder / "images" / "photo0_tile1.png").rename(folder / "images" / "b" / "photo0_tile0.png")
    edit(folder, lambda content: content["images"][1].update(file_name="b/photo0_tile0.png"))
    ids = [record.id for record in read_coco(folder)[0]]
    assert ids[:2] == ["b_photo0_tile0", "photo0_tile0"]
    edit(folder, lambda content: content["images"][1].update(file_name="photo0_tile0.jpg"))
    with pytest.raises(UserError, match="more than one image named photo0_tile0"):
        read_coco(folder)


def test_missing_images_are_counted_and_named(folder):
    (folder / "images" / "photo1_tile0.png").unlink()
    with pytest.raises(
        UserError, match=r"1 of 6 images of .* are not there: photo1_tile0\.png\. Put them into"
    ):
        read_coco(folder)


def test_image_of_another_size_than_the_file_says_is_a_user_error(folder):
    record = read_coco(folder)[0][0]
    height, width = record.truth.size
    with pytest.raises(UserError, match=rf"are {width} x {height} pixels but .*photo0_tile0\.png is 9 x 8"):
        record.read_objects((8, 9))


SIZE = list(make_scenes()[0].size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"category_id": 4},
            r"1 of \d+ annotations have a category_id .*\(allowed: 3, 5, 7, 9\), e\.g\. ann",
        ),
        ({"category_id": "Fiber"}, "annotation 1 has category_id='Fiber', which COCO does not allow"),
        ({"image_id": 1}, r"1 of \d+ annotations have a image_id .* annotation 1 with image_id=1\."),
        ({"segmentation": [[1, 1, 5, 1, 5, 5, 2]]}, "annotation 1 of image 100 has a polygon of 7 values"),
        ({"segmentation": [1, 1, 5, 1, 5, 5]}, r"not a list \[x0, y0, x1, y1, …\] of pixels"),
        ({"segmentation": [[1, 1, 5, 1, "a", 5]]}, r"not a list \[x0"),
        ({"segmentation": [[1, 1, 1e12, 1, 5, 5]]}, r"not a list \[x0"),
        ({"segmentation": [[1, 1, float("nan"), 1, 5, 5]]}, r"not a list \[x0"),
        ({"segmentation": "polygon"}, "neither polygons nor run lengths"),
        (
            {"segmentation": {"size": [9, 9], "counts": [81]}},
            r"of size \[9, 9\] \(height, width\) but its image",
        ),
        ({"segmentation": {"size": SIZE, "counts": [9, 9]}}, "run lengths that do not fill its image"),
        ({"segmentation": {"size": SIZE, "counts": [9, 10**6]}}, "run lengths that do not fill its image"),
        ({"segmentation": {"size": SIZE, "counts": [-9, 10]}}, "run lengths that do not fill its image"),
        ({"segmentation": {"size": SIZE, "counts": "hello"}}, "run lengths that do not fill its image"),
        ({"segmentation": {"size": SIZE, "counts": "\u20ac"}}, "run lengths that do not fill its image"),
        ({"segmentation": {"size": SIZE}}, "run lengths that do not fill its image"),
    ],
)
def test_wrong_annotations_are_user_errors_of_one_line(folder, fields, message):
    change_annotation(folder, **fields)
    with pytest.raises(UserError, match=message) as caught:
        read_coco(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", r"is not JSON: .* Give a COCO annotation file"),
        ("[]", r"no list images and no list annotations and no list categories\. .*not a file of results"),
        ('{"images": [], "annotations": {}}', "no list annotations and no list categories"),
        ('{"images": [1], "annotations": [], "categories": []}', "no list images"),
        ('{"images": [], "annotations": [], "categories": []}', "it names none"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "image 1 has file_name=None"),
    ],
)
def test_files_that_are_not_coco_are_user_errors(folder, text, message):
    (folder / "annotations.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_coco(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(height=None), r"image photo0_tile0\.png has height=None"),
        (lambda c: c["images"][0].update(id=101), "more than one image id 101"),
        (lambda c: c["categories"][0].update(id=5), "more than one category id 5"),
        (lambda c: c.update(annotations=[]), "no object with a mask"),
    ],
)
def test_inconsistent_files_are_user_errors(folder, change, message):
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        read_coco(folder)


def test_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"data\.data_dir=.* is not a folder"):
        read_coco(tmp_path / "none")


def test_groups_come_from_a_pattern_a_table_or_a_field_of_the_images(folder):
    names = [scene.name for scene in make_scenes()]
    expected = {name: name.split("_")[0] for name in names}
    rows = [f"{name}.png,{group}" for name, group in expected.items()]
    (folder / "groups.csv").write_text("\n".join(["image,photo", *rows]) + "\n")
    edit(folder, lambda c: [i.update(extra={"photo": i["file_name"].split("_")[0]}) for i in c["images"]])
    for options in (
        {"group_pattern": r"(photo\d+)_"},
        {"group_table": "groups.csv", "group_column": "photo"},
        {"group_column": "extra.photo"},
    ):
        assert {r.id: r.group for r in read_coco(folder, **options)[0]} == expected
    assert all(record.group == record.id for record in read_coco(folder)[0])


def test_field_of_groups_must_be_there_for_all_images(folder):
    with pytest.raises(UserError, match=r"group_column='file_nam' is no field .* Did you mean 'file_name'"):
        read_coco(folder, group_column="file_nam")
    edit(folder, lambda content: content["images"][0].update(slide="A"))
    with pytest.raises(UserError, match=r"field slide of .* has no group for 5 of 6 images: photo0_tile1"):
        read_coco(folder, group_column="slide")


def test_content_key_follows_the_image_and_its_own_annotations_only(folder):
    first, second = read_coco(folder, classes=CLASSES)[0][0::3][:2]
    keys = [first.content_key()]
    os.utime(first.image_path, ns=(1, 1))
    keys.append(first.content_key())
    change_annotation(folder, segmentation=[[1, 1, 9, 1, 9, 9]])
    changed, same = read_coco(folder, classes=CLASSES)[0][0::3][:2]
    keys.append(changed.content_key())
    keys.append(read_coco(folder, classes=CLASSES[::-1])[0][0].content_key())
    assert len(set(keys)) == 4
    assert same.content_key() == second.content_key()


def test_fingerprint_depends_on_annotations_and_on_no_path(folder, tmp_path):
    prints = [record.fingerprint() for record in read_coco(folder)[0]]
    copied = read_coco(folder.rename(tmp_path / "elsewhere"))[0]
    assert [record.fingerprint() for record in copied] == prints
    change_annotation(tmp_path / "elsewhere", category_id=7 if make_scenes()[0].shapes[0].label != 1 else 3)
    changed = [record.fingerprint() for record in read_coco(tmp_path / "elsewhere")[0]]
    assert changed[0] != prints[0]
    assert changed[1:] == prints[1:]


def make_crowds(folder: Path, share: float) -> None:
    def change(content: dict[str, Any]) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["iscrowd"] = int(number < share * len(content["annotations"]))

    edit(folder, change)


def test_a_set_of_crowds_alone_is_refused_with_the_remedy(folder):
    make_crowds(folder, 1)
    with pytest.raises(UserError, match=r"all 18 objects of .* are crowd regions .*data\.crowd=objects"):
        read_coco(folder)
    records, _ = read_coco(folder, crowd="objects")
    assert sum(record.truth.num_objects for record in records) == 18
    assert not any(record.read_objects().crowd.any() for record in records)
    with pytest.raises(UserError, match=r"data\.crowd='object' is unknown.*Did you mean 'objects'"):
        read_coco(folder, crowd="object")


def test_crowds_are_counted_and_many_of_them_are_warned_of(folder, caplog):
    make_crowds(folder, 0.5)
    records, _ = read_coco(folder)
    assert "9 of 18 objects are crowd regions (iscrowd=1), ignored in training and metrics" in caplog.text
    assert sum(record.truth.num_crowds for record in records) == 9
    assert sum(record.truth.num_objects for record in records) == 9
    crowded = next(record for record in records if record.truth.num_crowds)
    assert (crowded.read_mask() == 255).any()  # ignored by networks for masks, too


@pytest.mark.parametrize(
    ("value", "crowd"), [(0, False), (1, True), (False, False), (True, True), (None, False)]
)
def test_the_crowd_field_is_a_flag(folder, value, crowd):
    change_annotation(folder, iscrowd=value)
    assert read_coco(folder)[0][0].truth.objects[0].crowd == crowd


@pytest.mark.parametrize("value", ["0", "1", 2, -1, [], "no"])
def test_anything_else_in_the_crowd_field_is_a_user_error(folder, value):
    change_annotation(folder, iscrowd=value)
    with pytest.raises(UserError, match=r"annotation 1 has iscrowd=.*, which COCO does not allow"):
        read_coco(folder)


def test_a_class_that_is_absent_keeps_its_place_where_that_is_allowed(folder, caplog):
    names = ["Fiber", "Glass", "Film", "Fragment"]
    with pytest.raises(UserError, match=r"data\.classes names 'Glass'"):
        read_coco(folder, classes=names)
    records, found = read_coco(folder, classes=names, allow_absent=True)
    assert found == names
    assert "no object is of the class Glass, which is absent: its metrics are undefined" in caplog.text
    assert_equal_to_pycocotools(records, folder / "annotations.json", {0: 3, 2: 5, 3: 7})
    first, glass, *others = records[0].truth.category_ids
    assert (first, others) == (3, [5, 7])
    assert glass not in (3, 5, 7, 9)


def test_labels_are_all_classes_of_an_image(folder):
    for record in read_coco(folder, classes=CLASSES)[0]:
        scene = next(scene for scene in make_scenes() if scene.name == record.id)
        assert record.labels == ({shape.label for shape in scene.shapes if not shape.crowd} or {-1})


def test_hidden_annotation_files_are_passed_over(folder):
    (folder / "annotations").mkdir()
    (folder / "annotations.json").rename(folder / "annotations" / "a.json")
    (folder / "annotations" / "._a.json").write_bytes(b"\x00")
    assert len(read_coco(folder)[0]) == 6
