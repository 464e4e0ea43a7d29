"""What one object of a label map is: a number, or a connected piece; the data decide, or the user does."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_sets import MASKS, build
from PIL import Image
from scipy import ndimage

from polymask.data.pieces import count, separate
from polymask.data.sources import read_label_maps
from polymask.errors import UserError
from polymask.families import instances, multitask
from polymask.structures.layers import number_objects, stack_masks

CENTRES = ((12, 12), (12, 36), (36, 12), (36, 36))


def cells(number: int = 4, size: int = 48) -> np.ndarray:
    """Return a label map with up to four discs that do not touch, numbered from 1."""
    result = np.zeros((size, size), np.uint8)
    for index, (y, x) in enumerate(CENTRES[:number], start=1):
        cv2.circle(result, (x, y), 5 + index, index, -1)
    return result


def write_maps(folder: Path, maps: list[np.ndarray]) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index, label_map in enumerate(maps):
        cv2.imwrite(str(folder / "images" / f"i{index:03d}.png"), (label_map > 0).astype(np.uint8) * 99)
        cv2.imwrite(str(folder / "labels" / f"i{index:03d}.png"), label_map)
    return folder


def foreground(label_map: np.ndarray) -> np.ndarray:
    return np.where(label_map > 0, np.uint8(255), np.uint8(0))


def classes_of(label_map: np.ndarray) -> np.ndarray:
    return np.where(label_map > 0, 1 + label_map % 2, 0).astype(np.uint8)


def smoothed(label_map: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(foreground(label_map), (5, 5), 1.5)


@pytest.mark.parametrize("change", [foreground, classes_of, smoothed])
def test_numbers_that_stand_for_many_objects_are_refused_with_both_remedies(tmp_path, change) -> None:
    folder = write_maps(tmp_path / "maps", [change(cells()) for _ in range(6)])
    with pytest.raises(UserError, match=r"6 of 6 label maps .* in many separate pieces") as caught:
        read_label_maps(folder)
    assert "data.reader.split=components" in str(caught.value)
    assert "data.reader.split=values" in str(caught.value)
    records, _ = read_label_maps(folder, split="values")
    assert len(records[0].read_objects().labels) == len(np.unique(change(cells()))) - 1


def test_components_are_the_objects_that_were_drawn(tmp_path) -> None:
    folder = write_maps(tmp_path / "maps", [foreground(cells(number)) for number in (4, 3, 1, 0)])
    records, _ = read_label_maps(folder, split="components")
    for record, number in zip(records, (4, 3, 1, 0), strict=True):
        target = record.read_objects().to_target()
        drawn = cells(number)
        assert len(target["masks"]) == number
        found = {mask.tobytes() for mask in target["masks"]}
        assert found == {(drawn == index + 1).astype(np.uint8).tobytes() for index in range(number)}


@pytest.mark.parametrize(
    "maps",
    [
        [cells() for _ in range(6)],
        [cells() * 60 for _ in range(6)],  # with gaps
        [cells(1) * 255 for _ in range(6)],  # one object each
        [cells(0), cells(0), cells()],
        [cells() for _ in range(11)] + [foreground(cells(2))],  # one object in two pieces among many
    ],
)
def test_sound_label_maps_are_taken_as_they_are(tmp_path, maps) -> None:
    records, _ = read_label_maps(write_maps(tmp_path / "maps", maps))
    found = [len(record.read_objects().labels) for record in records]
    assert found == [len(np.unique(label_map)) - 1 for label_map in maps]


def test_a_share_of_maps_of_another_kind_is_enough(tmp_path) -> None:
    maps = [cells() for _ in range(8)] + [foreground(cells()) for _ in range(2)]
    with pytest.raises(UserError, match="2 of 10 label maps"):
        read_label_maps(write_maps(tmp_path / "maps", maps))


def test_only_some_maps_of_a_large_set_are_looked_at(tmp_path, monkeypatch) -> None:
    from polymask.data.sources import label_maps

    folder = write_maps(tmp_path / "maps", [cells() for _ in range(150)])
    opened = []
    read = label_maps.read_label_map
    monkeypatch.setattr(label_maps, "read_label_map", lambda path: opened.append(path.name) or read(path))
    read_label_maps(folder)
    assert len(set(opened)) == len(opened) == 64
    first = sorted(opened)
    opened.clear()
    read_label_maps(folder)
    assert not opened  # known from before
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    read_label_maps(folder)
    assert sorted(opened) == first
    # Spread over the set, rather than its beginning.
    assert len([name for name in first if name >= "i075.png"]) > 20


def test_folders_with_one_mask_for_all_objects_are_refused_too(tmp_path) -> None:
    folder = write_maps(tmp_path / "maps", [cells()])
    (folder / "labels" / "i000.png").unlink()
    (folder / "labels" / "i000").mkdir()
    cv2.imwrite(str(folder / "labels" / "i000" / "all.png"), foreground(cells()))
    with pytest.raises(UserError, match="i000 1 number in 4 pieces"):
        read_label_maps(folder)
    (record,), _ = read_label_maps(folder, split="components")
    assert len(record.read_objects().labels) == 4


def test_pieces_agree_with_scipy_in_every_layer_and_keep_class_and_crowd() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 30)) > 0.6 for _ in range(3)]
    objects = stack_masks(masks, [2, 0, 1], [False, True, False], (40, 30))
    apart = separate(objects)
    expected = [ndimage.label(mask, np.ones((3, 3)))[0] for mask in masks]
    labels = [label for label, own in zip([2, 0, 1], expected, strict=True) for _ in range(own.max())]
    assert apart.labels.tolist() == labels
    assert apart.crowd.tolist() == [label == 0 for label in apart.labels]
    found = {mask.tobytes() for mask in apart.to_target()["masks"]}
    assert found == {
        (own == number).astype(np.uint8).tobytes() for own in expected for number in range(1, own.max() + 1)
    }


def test_specks_are_no_pieces() -> None:
    label_map = cells(2)
    label_map[0, 0], label_map[47, 47] = 1, 2
    assert count(number_objects(label_map))[:2] == (2, 2)
    assert count(number_objects(foreground(cells(3))))[:2] == (1, 3)


def test_cache_and_fingerprint_tell_components_from_values(tmp_path) -> None:
    folder = write_maps(tmp_path / "maps", [foreground(cells())])
    (values,), (components,) = (read_label_maps(folder, split=how)[0] for how in ("values", "components"))
    assert values.content_key() != components.content_key()
    assert values.fingerprint() != components.fingerprint()


def test_unknown_split_is_a_user_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"data\.reader\.split='pieces' is unknown.*components"):
        read_label_maps(tmp_path, split="pieces")


@pytest.mark.parametrize("kind", ["objects", "masks"])
def test_label_maps_of_several_pages_are_refused_with_their_number(tmp_path, kind) -> None:
    folder = write_maps(tmp_path / "maps", [cells() for _ in range(4)])
    first, *others = [Image.fromarray(cells(number)) for number in (4, 3, 2)]
    (folder / "labels" / "i003.png").unlink()
    first.save(folder / "labels" / "i003.tif", save_all=True, append_images=others)
    options = {"data_dir": str(folder), "classes": [], "batch_size": 2}
    make = {
        "objects": partial(build, instances.Samples, reader=read_label_maps),
        "masks": partial(
            build, multitask.Samples, reader=partial(read_label_maps, split="values"), image_size=48
        ),
    }[kind]
    with pytest.raises(UserError, match=r"i003\.tif has 3 pages"):
        make(**options)


def test_hidden_files_and_folders_are_no_label_maps(tmp_path) -> None:
    folder = write_maps(tmp_path / "maps", [cells(), cells()])
    expected = read_label_maps(folder)[0]
    for name in ("images/._i000.png", "labels/._i000.png", "labels/.DS_Store", "images/.DS_Store"):
        (folder / name).write_bytes(b"not an image")
    (folder / "labels" / ".i001").mkdir()
    assert read_label_maps(folder)[0] == expected


@pytest.mark.parametrize("cut", ["image", "label map"])
def test_a_file_that_was_cut_off_is_found_at_the_start_in_any_subset(tmp_path, cut) -> None:
    folder = write_maps(tmp_path / "maps", [cells() for _ in range(6)])
    path = folder / ("images" if cut == "image" else "labels") / "i005.png"
    content = path.read_bytes()
    path.write_bytes(content[:20])
    with pytest.raises(UserError, match=r"cannot read .*i005\.png"):
        build(instances.Samples, reader=read_label_maps, data_dir=str(folder), classes=[], batch_size=2)


def test_a_subset_without_objects_is_refused_and_the_line_counts_them(tmp_path) -> None:
    folder = write_maps(tmp_path / "maps", [cells() for _ in range(4)] + [cells(0)] * 2)
    rows = ["id,subset"] + [f"i{i:03d},{'train' if i < 3 else 'val' if i < 4 else 'test'}" for i in range(6)]
    (tmp_path / "split.csv").write_text("\n".join(rows) + "\n")
    data = build(
        instances.Samples,
        reader=read_label_maps,
        data_dir=str(folder),
        classes=[],
        batch_size=2,
        split_file=str(tmp_path / "split.csv"),
    )
    data.check_truth(MASKS, ["train", "val"])
    with pytest.raises(UserError, match=r"none of the 2 test images of .* holds an object"):
        data.check_truth(MASKS)
    line = (
        "16 objects in 6 images (2.7 per image), 2 without objects, 0 crowd regions, 1.00 pieces per object"
    )
    assert data.description().startswith(line)
