"""Names in the composed and the decomposed form of Unicode are one name."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask.data.sources import coco, ham10000
from polymask.data.tables import parse_csv

FORMS = [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")]
NAME = "näevus_é"


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())


@pytest.mark.parametrize(("listed", "on_disk"), FORMS)
def test_table_finds_its_files(tmp_path, listed, on_disk):
    disk = unicodedata.normalize(on_disk, NAME)
    write(tmp_path / "images" / f"{disk}.png")
    write(tmp_path / "masks" / f"{disk}_segmentation.png")
    table = f"lesion_id,image_id,dx\nL1,{unicodedata.normalize(listed, NAME)},nv\n"
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    (record,), _ = ham10000.read_ham10000(tmp_path, classes=["NV"])
    assert record.id == NAME
    assert record.image_path.is_file()
    assert record.truth is not None
    assert record.truth.path.is_file()


@pytest.mark.parametrize(("listed", "on_disk"), FORMS)
def test_coco_finds_its_images(tmp_path, listed, on_disk):
    write(tmp_path / "images" / f"{unicodedata.normalize(on_disk, NAME)}.png")
    box = [[1, 1, 5, 1, 5, 5, 1, 5]]
    entry = {"id": 1, "file_name": unicodedata.normalize(listed, NAME) + ".png", "height": 8, "width": 8}
    note = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": box, "iscrowd": 0, "area": 16}
    content = {"images": [entry], "annotations": [note], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    (record,), _ = coco.read_coco(tmp_path, classes=[])
    assert record.id == NAME
    assert record.image_path.is_file()


def test_tables_are_in_the_composed_form():
    rows = parse_csv("id\n" + unicodedata.normalize("NFD", NAME) + "\n", "a table")
    assert rows == [{"id": NAME}]
