"""One annotation file per subset, as Roboflow exports them: one data set with its own split."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pytest
from data_sets import build
from instance_files import write_coco

from polymask.data.module import DataModule
from polymask.data.sources import read_coco
from polymask.errors import UserError
from polymask.families.instances import Samples

FOLDERS = {"train": "train", "valid": "val", "test": "test"}
FILES = {"train": "train/a.json", "val": "valid/a.json", "test": "test/a.json"}


def write_roboflow(root: Path, *, name: str = "_annotations.coco.json") -> Path:
    """Write three folders whose images, image numbers and category ids know nothing of one another."""
    for number, folder in enumerate(FOLDERS):
        write_coco(root / folder, num_images=4, seed=number)
        content = json.loads((root / folder / "annotations.json").read_text())
        for category in content["categories"]:
            category["id"] += 10 * number
        for annotation in content["annotations"]:
            annotation["category_id"] += 10 * number
        (root / folder / "annotations.json").unlink()
        (root / folder / name).write_text(json.dumps(content))
        for path in (root / folder / "images").iterdir():
            path.rename(root / folder / path.name)
        (root / folder / "images").rmdir()
    return root


def data_of(root: Path, **options) -> DataModule:
    reader = partial(read_coco, **options.pop("reader", {}))
    return build(Samples, reader=reader, data_dir=str(root), classes=[], batch_size=2, **options)


def test_folders_of_subsets_are_found_and_make_the_split(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    data = data_of(write_roboflow(tmp_path))
    assert "train from train/, val from valid/, test from test/" in caplog.text
    assert {name: len(ids) for name, ids in data.split.subsets.items()} == dict.fromkeys(FILES, 4)
    for folder, subset in FOLDERS.items():
        for record in data.subset(subset):
            assert record.image_path.parent == tmp_path / folder
            assert record.id == f"{folder}_{record.image_path.stem}"  # the names repeat in each folder


def test_categories_are_one_class_by_name_whatever_their_ids(tmp_path) -> None:
    records, names = read_coco(write_roboflow(tmp_path))
    assert sorted(names) == ["Fiber", "Film", "Fragment"]
    for record in records:
        number = list(FOLDERS).index(record.image_path.parent.name)
        content = json.loads(record.truth.path.read_text())
        name_of = {category["id"]: category["name"] for category in content["categories"]}
        assert [name_of[id_] for id_ in record.truth.category_ids] == names
        assert min(record.truth.category_ids) > 10 * number
        own = [a for a in content["annotations"] if a["image_id"] == record.truth.image_number]
        assert [names[item.label] for item in record.truth.objects] == [
            name_of[a["category_id"]] for a in own
        ]


def test_files_are_named_and_without_val_it_is_drawn_from_train(tmp_path) -> None:
    root = write_roboflow(tmp_path, name="a.json")
    data = data_of(root, reader={"files": FILES})
    assert [len(ids) for ids in data.split.subsets.values()] == [4, 4, 4]
    files = {name: FILES[name] for name in ("train", "test")}
    data = data_of(root, reader={"files": files}, fractions=[0.5, 0.5, 0])
    assert [len(ids) for ids in data.split.subsets.values()] == [2, 2, 4]
    data = data_of(root, reader={"files": {"train": FILES["train"], "valid": FILES["val"]}})
    assert [len(ids) for ids in data.split.subsets.values()] == [4, 4, 0]


def test_folds_of_a_prescribed_split_are_refused(tmp_path) -> None:
    root = write_roboflow(tmp_path, name="a.json")
    for files in (FILES, {"train": FILES["train"], "val": FILES["val"]}):
        with pytest.raises(UserError, match=r"data\.num_folds=5 leaves nothing to draw"):
            data_of(root, reader={"files": files}, num_folds=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": {"train": "a.json", "valid": "b.json"}}, "there is no file .*a.json for train"),
        ({"files": {"training": "a.json"}}, "subset='training' is unknown.*Allowed: train"),
        ({"files": {"val": "valid/a.json", "valid": "valid/a.json"}}, "two files for val"),
        ({"files": {"val": "valid/a.json"}}, "no file for train"),
        ({"files": "train/a.json"}, "is not valid; name a file for each subset"),
        ({"files": FILES, "annotations": "train/a.json"}, "both given; keep one"),
    ],
)
def test_mistakes_are_user_errors(tmp_path, options, message) -> None:
    write_roboflow(tmp_path, name="a.json")
    with pytest.raises(UserError, match=message) as caught:
        read_coco(tmp_path, **options)
    assert "\n" not in str(caught.value)
