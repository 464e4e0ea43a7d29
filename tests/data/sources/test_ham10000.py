from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from polymask.data.records import Record
from polymask.data.sources import read_ham10000
from polymask.errors import UserError

OFFICIAL = """lesion_id,image_id,dx,dx_type,age,sex,localization
L1,c,nv,histo,50,male,back
L2,b,mel,histo,60,female,face
L1,a,nv,histo,50,male,back
,d,,follow_up,,,
"""
ONE_HOT = """image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
b,1.0,0.0,0.0,0.0,0.0,0.0,0.0
a,0,1,0,0,0,0,0
c,0,1,0,0,0,0,0
d,0,0,0,0,0,0,0
"""


def make_layout(
    folder: Path,
    table: str | None = OFFICIAL,
    name: str = "metadata.csv",
    images: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
    masks: tuple[str, ...] | None = None,
) -> Path:
    (folder / "images").mkdir(parents=True)
    for image in images:
        (folder / "images" / image).touch()
    if masks is not None:
        (folder / "masks").mkdir()
        for mask in masks:
            (folder / "masks" / mask).touch()
    if table is not None:
        (folder / name).write_text(table, encoding="utf-8")
    return folder


def read_records(folder: Path, classes: list[str], **options: Any) -> list[Record]:
    records, names = read_ham10000(folder, classes=classes, **options)
    assert names == classes
    return records


def test_official_table_gives_sorted_records_with_lesion_groups(tmp_path):
    records = read_records(make_layout(tmp_path), ["MEL", "nv"])
    found = [(r.id, r.label, r.group) for r in records]
    assert found == [("a", 1, "L1"), ("b", 0, "L2"), ("c", 1, "L1"), ("d", -1, "d")]
    assert [r.image_path for r in records] == [tmp_path / "images" / f"{name}.jpg" for name in "abcd"]
    assert all(r.truth is None for r in records)


@pytest.mark.parametrize("name", ["GroundTruth.csv", "metadata.csv"])
def test_one_hot_table_gives_labels_and_image_groups(tmp_path, name, caplog):
    records = read_records(make_layout(tmp_path, ONE_HOT, name), ["nv", "mel"])
    assert [(r.id, r.label, r.group) for r in records] == [
        ("a", 0, "a"),
        ("b", 1, "b"),
        ("c", 0, "c"),
        ("d", -1, "d"),
    ]
    assert "no column lesion_id" in caplog.text


def test_both_tables_of_the_same_data_give_the_same_labels(tmp_path):
    official = read_records(make_layout(tmp_path / "official"), ["nv", "mel"])
    one_hot = read_records(make_layout(tmp_path / "one_hot", ONE_HOT), ["nv", "mel"])
    assert [(r.id, r.label) for r in official] == [(r.id, r.label) for r in one_hot]


def test_metadata_wins_over_ground_truth_because_it_knows_the_lesions(tmp_path):
    make_layout(tmp_path)
    (tmp_path / "GroundTruth.csv").write_text(ONE_HOT)
    assert [r.group for r in read_records(tmp_path, ["nv", "mel"])] == ["L1", "L2", "L1", "d"]


def test_one_hot_table_with_lesions_has_their_groups(tmp_path, caplog):
    table = "lesion_id,image,MEL,NV\nL,a,1,0\nL,b,1,0\nM,c,0,1\n"
    records = read_records(make_layout(tmp_path, table), ["NV", "MEL"])
    assert [r.group for r in records] == ["L", "L", "M"]
    assert caplog.text == ""


def test_table_from_a_spreadsheet_with_byte_order_mark_spaces_and_blank_lines_is_read(tmp_path):
    make_layout(tmp_path, "\ufeffLesion_ID, Image_ID ,DX\r\nL1, a ,NV \r\n\r\nL2,b,nv\r\n")
    assert [(r.id, r.label, r.group) for r in read_records(tmp_path, ["nv"])] == [
        ("a", 0, "L1"),
        ("b", 0, "L2"),
    ]


def test_images_of_every_suffix_and_case_are_found(tmp_path):
    suffixes = [".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".JPG", ".Png", ".TIF"]
    names = [f"i{index}" for index in range(len(suffixes))]
    table = "image_id,dx\n" + "".join(f"{name},nv\n" for name in names)
    images = tuple(name + suffix for name, suffix in zip(names, suffixes, strict=True))
    make_layout(tmp_path, table, images=(*images, "notes.txt", "Thumbs.db"))
    assert [r.image_path.name for r in read_records(tmp_path, ["nv"])] == list(images)


def test_masks_of_all_three_names_are_found_and_absent_ones_are_none(tmp_path, caplog):
    masks = ("a_segmentation.png", "b_Segmentation.png", "c.png", "other.png")
    records = read_records(make_layout(tmp_path, masks=masks), ["nv", "mel"])
    found = [r.truth.mask_file.name if r.truth else None for r in records]
    assert found == ["a_segmentation.png", "b_Segmentation.png", "c.png", None]
    assert "1 of 4 images have no mask" in caplog.text


def test_images_of_other_classes_are_dropped_with_one_note_that_counts_them(tmp_path, caplog):
    table = "image_id,dx\na,nv\nb,mel\nc,bkl\nd,bkl\n"
    with caplog.at_level(logging.INFO):
        records = read_records(make_layout(tmp_path, table), ["nv"])
    assert [(r.id, r.label) for r in records] == [("a", 0)]
    notes = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert notes == ["Left out 3 images of classes that are not in use: bkl 2, mel 1"]


def test_one_hot_row_of_a_class_not_in_use_is_dropped_and_not_unknown(tmp_path):
    assert [r.id for r in read_records(make_layout(tmp_path, ONE_HOT), ["nv"])] == ["a", "c", "d"]


def test_missing_image_of_a_class_not_in_use_is_no_mistake(tmp_path):
    make_layout(tmp_path, images=("a.jpg", "c.jpg", "d.jpg"))
    assert [r.id for r in read_records(tmp_path, ["nv"])] == ["a", "c", "d"]


def test_missing_images_stop_the_run_unless_skipped(tmp_path, caplog):
    make_layout(tmp_path, images=("a.jpg", "b.jpg"))
    expected = (
        r"2 of 4 images of .*metadata.csv are not in .*images: c, d\. .*data\.reader\.skip_missing=true"
    )
    with pytest.raises(UserError, match=expected):
        read_records(tmp_path, ["nv", "mel"])
    assert [r.id for r in read_records(tmp_path, ["nv", "mel"], skip_missing=True)] == ["a", "b"]
    assert "2 of 4 images" in caplog.text


def test_many_missing_images_are_not_all_listed(tmp_path):
    table = "image_id,dx\na,nv\n" + "".join(f"x{index},nv\n" for index in range(8))
    with pytest.raises(UserError, match=r"8 of 9 .*: x0, x1, x2, x3, x4 and 3 more\."):
        read_records(make_layout(tmp_path, table), ["nv"])


def test_no_image_at_all_is_an_error_even_when_missing_ones_are_skipped(tmp_path):
    make_layout(tmp_path, images=())
    with pytest.raises(UserError, match=r"4 of 4 images .* Put them there as id\.jpg, id\.jpeg"):
        read_records(tmp_path, ["nv", "mel"], skip_missing=True)


def test_class_without_images_lists_the_classes_found(tmp_path):
    with pytest.raises(UserError, match=r"'mell', but no image .*Did you mean 'mel'\? Found: nv 2, .*mel 1"):
        read_records(make_layout(tmp_path), ["nv", "mell"])


def test_class_whose_only_image_is_skipped_has_no_image(tmp_path):
    make_layout(tmp_path, images=("a.jpg", "c.jpg"))
    with pytest.raises(UserError, match=r"'mel', but no image .* Found: nv 2\."):
        read_records(tmp_path, ["nv", "mel"], skip_missing=True)


def test_class_named_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.classes=\['nv', 'NV'\] repeats a class"):
        read_records(make_layout(tmp_path), ["nv", "NV"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image_id,dx\na,nv\nb,nv\na,mel\n", r"1 images more than once: a\. Keep one row each"),
        ("image_id,dx\na,nv\n,nv\n", r"1 rows without an image id"),
        ("image,NV,MEL\na,1,1\n", r"image 'a' has several classes \(nv, mel\)"),
        ("image,NV,MEL\na,2,0\n", r"image 'a' has '2' in column nv; allowed: 0 or 1"),
        ("image,NV,MEL\na,yes,0\n", r"image 'a' has 'yes' in column nv"),
        ("lesion_id,dx\nL,nv\n", r"no column image_id or image\. Found: lesion_id, dx\."),
        ("lesion_id,images_id,dx\nL,a,nv\n", r"Did you mean 'images_id'\?"),
        ("image_id,diagnosis\na,nv\n", r"neither a column dx nor one .*Found: image_id, diagnosis\."),
        ("image_id;dx\na;nv\n", r"no column image_id or image\. Found: image_id;dx"),
        ("", r"metadata\.csv is empty"),
        ("image_id,dx\n", r"metadata\.csv is empty"),
        ("image_id,dx\na,nv\nb\n", r"malformed in line 3: 1 values for 2 columns"),
        ('image_id,dx\na,"nv"x\n', r"malformed in line 2"),
        ("image_id,dx,DX\na,nv,nv\n", r"two columns of one name: image_id, dx, dx"),
    ],
)
def test_bad_table_is_named(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        read_records(make_layout(tmp_path, table), ["nv"])


def test_table_that_is_not_utf8_is_named(tmp_path):
    make_layout(tmp_path, None)
    (tmp_path / "metadata.csv").write_bytes("image_id,dx\na,nv\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"metadata\.csv is not UTF-8 text"):
        read_records(tmp_path, ["nv"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["metadata.csv", "images"])
def test_file_or_folder_without_permission_is_named(tmp_path, name):
    make_layout(tmp_path)
    (tmp_path / name).chmod(0)
    try:
        with pytest.raises(UserError, match=rf"{name} cannot be read: Permission denied"):
            read_records(tmp_path, ["nv"])
    finally:
        (tmp_path / name).chmod(0o700)


def test_missing_folders_and_table_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.data_dir='.*none' is not a folder\. .*HAM10000.*data=demo"):
        read_records(tmp_path / "none", ["nv"])
    with pytest.raises(UserError, match=r"has no folder images/"):
        read_records(tmp_path, ["nv"])
    make_layout(tmp_path, None)
    with pytest.raises(UserError, match=r"no table metadata\.csv or GroundTruth\.csv\. Put the HAM10000"):
        read_records(tmp_path, ["nv"])
    (tmp_path / "HAM10000_metadata.csv").touch()
    with pytest.raises(UserError, match=r"no table .* Rename the right one of: HAM10000_metadata\.csv"):
        read_records(tmp_path, ["nv"])


def test_two_files_of_one_image_are_ambiguous(tmp_path):
    make_layout(tmp_path, images=("a.jpg", "a.png", "b.jpg", "c.jpg", "d.jpg"))
    with pytest.raises(UserError, match=r"two files for 'a': a\.jpg and a\.png\. Keep one"):
        read_records(tmp_path, ["nv"])


def test_table_of_ten_thousand_rows_is_read_whole(tmp_path):
    names = [f"ISIC_{index:07d}" for index in range(10_015)]
    table = "lesion_id,image_id,dx\n" + "".join(f"L{i // 2},{name},nv\n" for i, name in enumerate(names))
    make_layout(tmp_path, table, images=tuple(f"{name}.jpg" for name in names))
    records = read_records(tmp_path, ["nv"])
    assert [r.id for r in records] == names
    assert len({r.group for r in records}) == 5008


@pytest.mark.parametrize("table", [OFFICIAL, ONE_HOT, "image_id,age\na,x\nb,\nc,1\nd,2\n"])
def test_without_classes_all_images_are_there_and_unlabelled(tmp_path, table):
    records = read_records(make_layout(tmp_path, table), [])
    assert [(record.id, record.label) for record in records] == [(name, -1) for name in "abcd"]
