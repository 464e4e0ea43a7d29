"""Images below a folder, of which nothing else is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask.data.sources import read_images
from polymask.errors import UserError


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(("txt", "npy")):
            (folder / name).write_text("no image")
        else:
            cv2.imwrite(str(folder / name), np.full((6, 8, 3), len(name), np.uint8))
    return folder


def test_images_of_all_folders_and_kinds_are_found_and_nothing_else(tmp_path):
    kept = ["a.jpg", "b/c.PNG", "b/d/e.tiff", "b/d/f.bmp", "b/g.jpeg", "h.tif"]
    left_out = [".x.jpg", ".hidden/y.jpg", "b/._g.png", "notes.txt", "b/z.npy"]
    records, names = read_images(write(tmp_path, *kept, *left_out))
    assert names == []
    assert [record.id for record in records] == ["a", "b/c", "b/d/e", "b/d/f", "b/g", "h"]
    assert [record.image_path for record in records] == [tmp_path / name for name in kept]
    assert {(record.label, record.truth, record.subset) for record in records} == {(-1, None, None)}
    assert [record.group for record in records] == [record.id for record in records]
    assert records[1].read_image().shape == (6, 8, 3)


def test_groups_come_from_the_path_or_from_a_table(tmp_path):
    folder = write(tmp_path, "site_a/1.png", "site_a/2.png", "site_b/1.png")
    by_pattern, _ = read_images(folder, group_pattern="(site_.)/")
    assert [record.group for record in by_pattern] == ["site_a", "site_a", "site_b"]
    (folder / "table.csv").write_text("id,patient\nsite_a/1,p\nsite_a/2.png,q\nsite_b/1,p\n")
    by_table, _ = read_images(folder, group_table="table.csv", group_column="patient")
    assert [record.group for record in by_table] == ["p", "q", "p"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["notes.txt"], {}, r"^data\.data_dir=\S+ holds no image; looked for \.jpg, .*\.tiff\.$"),
        (["b/a.jpg", "b/a.png"], {}, r"^\S+ holds two images 'b/a': a\.jpg and a\.png\. Keep one\.$"),
        (["a.jpg"], {"group_pattern": "site"}, r"^data\.reader\.group_pattern='site' matches none of the 1 "),
        (["a.jpg"], {"classes": ["NV"]}, r"^data\.classes=\['NV'\], but nothing tells the classes"),
    ],
)
def test_mistakes_are_one_line(tmp_path, names, options, message):
    with pytest.raises(UserError, match=message) as refused:
        read_images(write(tmp_path, *names), **options)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nowhere' is not a folder\. Name a folder with images\."):
        read_images(tmp_path / "nowhere")
