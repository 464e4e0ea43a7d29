"""polymask convert: round trips that lose nothing, what cannot be kept, and mistakes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import fails
from instance_files import CATEGORY_IDS, CLASSES, OVERLAPPING, write_coco, write_label_maps
from isic_files import write_isic2016
from lesion_files import write_lesions
from pycocotools.coco import COCO

from polymask import cli
from polymask.convert import ConvertResult

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2


def convert(source: Path, target: Path, *options: str) -> ConvertResult:
    return cli.run("convert", [f"source={source}", f"target={target}", *options])


@pytest.fixture(autouse=True)
def _no_outputs(project: Path) -> Path:
    return project


def annotations(folder: Path) -> COCO:
    truth = COCO()
    truth.dataset = json.loads((folder / "annotations.json").read_text())
    truth.createIndex()
    return truth


def objects_of(folder: Path) -> dict[str, list[tuple[str, int, np.ndarray]]]:
    """Return class, crowd flag and mask of each object per image id, as pycocotools reads them."""
    truth = annotations(folder)
    return {
        Path(image["file_name"]).stem: [
            (truth.cats[one["category_id"]]["name"], one.get("iscrowd", 0), truth.annToMask(one))
            for one in truth.loadAnns(truth.getAnnIds([number]))
        ]
        for number, image in truth.imgs.items()
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two data sets have the same objects, in the same order."""
    if set(first) != set(second) or any(len(first[id_]) != len(second[id_]) for id_ in first):
        return False
    pairs = (pair for id_ in first for pair in zip(first[id_], second[id_], strict=True))
    return all(a[:2] == b[:2] and np.array_equal(a[2], b[2]) for a, b in pairs)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def read_grey(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def label_map_objects(folder: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the masks of each image of a set of label maps, in the order of their numbers."""
    for path in sorted((folder / "labels").iterdir()):
        if path.is_dir():
            yield path.name, [read_grey(mask) > 0 for mask in sorted(path.iterdir())]
        else:
            numbers = read_grey(path)
            yield path.stem, [numbers == number for number in np.unique(numbers) if number]


def test_coco_to_coco_keeps_objects_numbers_and_images(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a")
    result = convert(source, tmp_path / "b")
    assert (result.num_images, result.lost) == (6, [])
    truth = annotations(tmp_path / "b")
    assert same(objects_of(source), objects_of(tmp_path / "b"))
    assert sorted(truth.imgs) == list(range(100, 106))
    assert {entry["name"]: entry["id"] for entry in truth.cats.values()} == dict(
        zip(CLASSES, CATEGORY_IDS, strict=True)
    )
    for annotation in truth.anns.values():
        mask = truth.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        sides = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
        assert (annotation["bbox"], annotation["area"]) == (list(sides), mask.sum())
    for image in (source / "images").iterdir():
        assert (tmp_path / "b" / "images" / image.name).read_bytes() == image.read_bytes()


def test_polygons_give_the_same_pixels(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "a")
    assert convert(source, tmp_path / "b", "segmentation=polygons").lost == []
    assert same(objects_of(source), objects_of(tmp_path / "b"))
    kinds = {(type(one["segmentation"]), one["iscrowd"]) for one in annotations(tmp_path / "b").anns.values()}
    assert kinds == {(list, 0), (dict, 1)}


def test_label_maps_to_coco_and_back(tmp_path: Path) -> None:
    source = write_label_maps(tmp_path / "a", num_images=8, num_folders=2)
    convert(source, tmp_path / "b")
    before, between = dict(label_map_objects(source)), objects_of(tmp_path / "b")
    assert set(before) == set(between)
    for id_, masks in before.items():
        np.testing.assert_array_equal([mask for *_, mask in between[id_]], masks)
    assert convert(tmp_path / "b", tmp_path / "c", "to=label_maps").lost == []
    after = dict(label_map_objects(tmp_path / "c"))
    for id_, masks in before.items():
        np.testing.assert_array_equal(after[id_], masks)


@pytest.mark.parametrize("segmentation", ["rle", "polygons"])
def test_masks_to_coco_and_back(tmp_path: Path, segmentation: str) -> None:
    source = write_lesions(tmp_path / "a")
    options = "by_diagnosis=true", "classes=[NV,MEL,BKL]"
    convert(source, tmp_path / "b", f"segmentation={segmentation}", *options)
    convert(tmp_path / "b", tmp_path / "c", "to=masks", "images=none", "group_column=group")
    files = sorted(path.name for path in (source / "masks").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "c/masks").iterdir())
    for name in files:
        np.testing.assert_array_equal(
            read_grey(source / "masks" / name), read_grey(tmp_path / "c/masks" / name)
        )
    tables = (table(folder / "metadata.csv") for folder in (source, tmp_path / "c"))
    first, second = ({row["image_id"]: row for row in rows} for rows in tables)
    assert {id_: (row["lesion_id"], row["dx"].upper()) for id_, row in first.items()} == {
        id_: (row["lesion_id"], row["dx"]) for id_, row in second.items()
    }
    assert list((tmp_path / "c/images").iterdir()) == []


def test_pieces_of_masks_become_objects_and_masks_again(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "a" / name).mkdir(parents=True)
    mask = np.zeros((40, 50), np.uint8)
    mask[5:9, 5:12], mask[20:30, 20:25] = 255, 255
    cv2.imwrite(str(tmp_path / "a/images/x.jpg"), mask)
    cv2.imwrite(str(tmp_path / "a/masks/x.png"), mask)
    assert convert(tmp_path / "a", tmp_path / "b", "components=true").num_objects == 2
    assert convert(tmp_path / "a", tmp_path / "whole", "classes=[cell]").num_objects == 1
    (name, _, whole), *_ = objects_of(tmp_path / "whole")["x"]
    assert (name, int(whole.sum())) == ("cell", 28 + 50)
    assert convert(tmp_path / "b", tmp_path / "c", "to=masks").lost == []
    np.testing.assert_array_equal(read_grey(tmp_path / "c/masks/x_segmentation.png"), mask)


def test_groups_go_along(tmp_path: Path) -> None:
    source = write_lesions(tmp_path / "a")
    convert(source, tmp_path / "b", "images=link")
    images = annotations(tmp_path / "b").imgs.values()
    groups = {Path(image["file_name"]).stem: image["group"] for image in images}
    assert groups["ISIC_0000001"] == groups["ISIC_0000002"] == "HAM_MEL_0"
    convert(source, tmp_path / "c", "to=label_maps", "images=none")
    assert {row["id"]: row["group"] for row in table(tmp_path / "c/groups.csv")} == groups
    assert (tmp_path / "b/images/ISIC_0000001.jpg").resolve() == source / "images/ISIC_0000001.jpg"


def test_the_challenges_folders_are_found(tmp_path: Path) -> None:
    assert convert(write_isic2016(tmp_path / "a"), tmp_path / "b").num_objects == 14
    (log,) = tmp_path.rglob("run.log")
    assert "prescribes the subset of 4 images (test)" in log.read_text()


def test_overlapping_objects_become_folders_or_are_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(tmp_path / "a", num_classes=1)
    content = json.loads((source / "annotations.json").read_text())
    content["annotations"] = [one for one in content["annotations"] if not one["iscrowd"]]
    (source / "annotations.json").write_text(json.dumps(content))
    assert convert(source, tmp_path / "b", "to=label_maps").lost == []
    true = objects_of(source)
    special = f"photo{OVERLAPPING // 2}_tile{OVERLAPPING % 2}"
    assert [path.name for path in (tmp_path / "b/labels").iterdir() if path.is_dir()] == [special]
    for id_, masks in label_map_objects(tmp_path / "b"):
        np.testing.assert_array_equal(masks, [mask for *_, mask in true[id_]] or np.zeros((0,)))
    command = "convert", str(source), str(tmp_path / "c"), "to=label_maps", "overlaps=hide"
    printed = fails(capsys, *command)
    assert "objects that others hide: 1 (overlaps=folders" in printed
    assert not (tmp_path / "c").exists()
    result = cli.run("convert", [*command[1:], "allow_loss=true"])
    assert len(result.lost) == 1
    numbers = read_grey(tmp_path / "c/labels" / f"{special}.png")
    masks = [mask > 0 for *_, mask in true[special]]
    smallest = int(np.argmin([mask.sum() for mask in masks]))
    assert (numbers[masks[smallest]] == smallest + 1).all()


def test_what_a_layout_cannot_hold_stops_the_conversion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_coco(tmp_path / "a"), tmp_path / "b"
    printed = fails(capsys, "convert", str(source), str(target), "to=label_maps")
    num_objects = sum(not crowd for own in objects_of(source).values() for _, crowd, _ in own)
    assert f"objects whose class is lost: {num_objects} (" in printed
    assert "crowd regions: 1 (" in printed
    assert "allow_loss=true" in printed
    printed = fails(capsys, "convert", str(source), str(target), "to=masks", "crowd=objects")
    assert "objects that touch or overlap others, or lie in pieces: " in printed
    assert "objects in images of several classes: " in printed
    assert "crowd regions" not in printed
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "outputs") == ["a"]


def test_polygons_of_objects_with_holes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lesions(tmp_path / "a")
    path = source / "masks/ISIC_0000003_segmentation.png"
    mask = read_grey(path)
    rows, columns = np.nonzero(mask)
    mask[int(rows.mean()), int(columns.mean())] = 0
    cv2.imwrite(str(path), mask)
    printed = fails(capsys, "convert", str(source), str(tmp_path / "b"), "segmentation=polygons")
    assert "objects with holes, which polygons would fill: 1 (segmentation=rle keeps them)" in printed
    assert not (tmp_path / "b").exists()
    result = convert(source, tmp_path / "b", "segmentation=polygons", "allow_loss=true")
    ((*_, found),) = objects_of(tmp_path / "b")["ISIC_0000003"]
    assert found.sum() == np.count_nonzero(mask) + 1
    assert result.lost == ["objects with holes, which polygons would fill: 1 (segmentation=rle keeps them)"]


MISTAKES = {
    "no data set": ([], "{root} is no data set of a known format. Known are masks"),
    "nothing there": (["source={root}/nowhere"], "nowhere' is not there"),
    "an unknown source": (["source={root}/coco", "from=voc"], "from='voc' is unknown."),
    "an unknown target": (["source={root}/coco", "to=yolo"], "to='yolo' is unknown."),
    "masks without images": (["source={root}/bare"], "images is not there: images/{{id}}.jpg"),
    "several formats": (
        ["source={root}/both"],
        "holds label_maps and coco; choose one, e.g. from=",
    ),
    "a target with files": (["source={root}/coco", "target={root}/both"], "is there already"),
    "a target in the source": (["source={root}/coco", "target={root}/coco/new"], "lies in the source"),
    "several classes": (["source={root}/maps", "classes=[a,b]"], "classes=['a', 'b'], but label maps"),
    "groups of masks": (["source={root}/bare", "group_column=a"], "group_column='a' is for coco and"),
    "classes of images": (["source={root}/maps", "by_diagnosis=true"], "by_diagnosis=true is for masks, but"),
    "pieces of COCO": (
        ["source={root}/coco", "components=true"],
        "components=True is for masks and label maps",
    ),
    "no target": (["source={root}/coco", "target=null"], "target= is needed"),
}


@pytest.fixture(scope="module")
def sources_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    write_coco(root / "coco")
    write_label_maps(root / "maps")
    write_coco(root / "both")
    (root / "both" / "labels").mkdir()
    (root / "bare" / "masks").mkdir(parents=True)
    return root


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(
    mistake: str, sources_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = MISTAKES[mistake]
    given = dict(word.format(root=sources_folder).split("=", 1) for word in words)
    options = {"source": str(sources_folder), "target": str(tmp_path / "new"), **given}
    printed = fails(capsys, "convert", *(f"{key}={value}" for key, value in options.items()))
    assert message.format(root=sources_folder) in printed
    assert not (tmp_path / "new").exists()


def test_more_objects_than_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymask.convert.MOST_NUMBERS", 1)  # instead of 65,535, which take a while to write
    printed = fails(capsys, "convert", str(write_coco(tmp_path / "a")), str(tmp_path / "b"))
    assert re.search(
        r"image photo\d_tile\d has \d objects, the most allowed is 1; cut it into tiles\.", printed
    )
    assert not (tmp_path / "b").exists()
