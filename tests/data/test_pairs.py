from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.inspection import FileMemory
from polymask.data.pairs import Offence, Pair, check_pairs, check_values, match_names, refuse
from polymask.errors import UserError

MASK = np.repeat(np.uint8([0, 255, 255, 0]), 16).reshape(8, 8)


def write_pair(folder: Path, id_: str, mask: np.ndarray = MASK, size: tuple[int, int] = (8, 8)) -> Pair:
    pair = Pair(id_, folder / f"{id_}.jpg", folder / f"{id_}_mask.png")
    cv2.imwrite(str(pair.image), np.full((*size, 3), 128, np.uint8))
    cv2.imwrite(str(pair.mask), mask)
    return pair


def offences_of(pairs: list[Pair]) -> list[Offence]:
    memory = FileMemory(None, Path())
    return [*check_pairs(pairs, memory), *check_values(pairs, memory)]


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def match(tmp_path: Path, images: list[str], masks: list[str]) -> tuple[list[str], list[Offence]]:
    image_folder, mask_folder = touch(tmp_path / "i", *images), touch(tmp_path / "m", *masks)
    pairs, offences = match_names(image_folder, mask_folder, image_suffix=".jpg", mask_suffix="_s.png")
    assert all(pair.image.parent == image_folder and pair.mask.parent == mask_folder for pair in pairs)
    assert all(pair.image.is_file() and pair.mask.is_file() for pair in pairs)
    return [pair.id for pair in pairs], offences


def test_files_are_paired_by_name_in_order(tmp_path):
    assert match(tmp_path, ["b.jpg", "a.jpg", "c.jpg"], ["c_s.png", "a_s.png", "b_s.png"]) == (
        ["a", "b", "c"],
        [],
    )


def test_image_without_mask_mask_without_image_and_other_names_are_offences(tmp_path):
    ids, offences = match(
        tmp_path, ["a.jpg", "b.jpg", "d.JPG", "e.jpg"], ["a_s.png", "c_s.png", "b_S.png", "e.png"]
    )
    assert ids == ["a"]
    assert offences == [
        ("b", f"no mask b_s.png in {tmp_path / 'm'}"),
        ("b_S.png", f"in {tmp_path / 'm'}, but not named *_s.png"),
        ("c", f"no image c.jpg in {tmp_path / 'i'}"),
        ("d.JPG", f"in {tmp_path / 'i'}, but not named *.jpg"),
        ("e", f"no mask e_s.png in {tmp_path / 'm'}"),
        ("e.png", f"in {tmp_path / 'm'}, but not named *_s.png"),
    ]


def test_files_that_are_no_images_and_hidden_ones_do_not_count(tmp_path):
    assert match(tmp_path, ["a.jpg", "readme.txt", "._a.jpg"], ["a_s.png", ".DS_Store", "Thumbs.db"]) == (
        ["a"],
        [],
    )


def test_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none cannot be read: No such file"):
        match_names(tmp_path / "none", tmp_path, image_suffix=".jpg", mask_suffix=".png")


def test_good_pairs_have_no_offence(tmp_path):
    pairs = [
        write_pair(tmp_path, "plain"),
        write_pair(tmp_path, "empty", np.zeros((8, 8), np.uint8)),
        write_pair(tmp_path, "full", np.full((8, 8), 255, np.uint8)),
        write_pair(tmp_path, "colour", np.stack([MASK] * 3, axis=-1)),
        write_pair(tmp_path, "opaque", np.dstack([MASK] * 3 + [np.full((8, 8), 200, np.uint8)])),
    ]
    assert offences_of(pairs) == []


def test_mask_of_other_values_is_named_with_share_and_values(tmp_path):
    few, many = MASK.copy(), MASK.copy()
    few[0, :4] = 1, 1, 254, 128
    many[0] = range(1, 9)
    pairs = [
        write_pair(tmp_path, "few", few),
        write_pair(tmp_path, "many", many),
        write_pair(tmp_path, "labels", MASK // 255),
        write_pair(tmp_path, "deep", MASK.astype(np.uint16) * 257),
    ]
    problems = {offence.id: offence.problem.split(" has ")[1] for offence in offences_of(pairs)}
    assert problems == {
        "few": "values other than 0 and 255 in 6.25% of it: 1, 128, 254",
        "many": "values other than 0 and 255 in 12.50% of it: 1, 2, 3, 4, 5 and 3 more",
        "labels": "values other than 0 and 255 in 50.00% of it: 1",
        "deep": "values other than 0 and 255 in 50.00% of it: 65535",
    }


def test_sizes_that_differ_and_all_problems_of_a_pair_are_named(tmp_path):
    pairs = [write_pair(tmp_path, "a", MASK // 255, size=(8, 16)), write_pair(tmp_path, "b")]
    offences = offences_of(pairs)
    assert [offence.id for offence in offences] == ["a", "a"]
    assert offences[0].problem == f"mask {pairs[0].mask} is 8 x 8 pixels but its image is 16 x 8"
    assert "values other than 0 and 255" in offences[1].problem


def test_files_that_cannot_be_read_are_named_and_the_others_still_checked(tmp_path):
    pairs = [write_pair(tmp_path, id_) for id_ in "abcd"]
    pairs[0].image.write_bytes(b"no image")
    pairs[1].mask.write_bytes(b"")
    pairs[2].mask.unlink()
    pairs[2].mask.symlink_to(tmp_path / "nowhere")
    assert [(o.id, o.problem.split(":")[0]) for o in offences_of(pairs)] == [
        ("a", f"cannot read image {pairs[0].image}"),
        ("b", f"cannot read mask {pairs[1].mask}"),
        ("c", f"cannot read {pairs[2].mask}"),
    ]


@pytest.mark.parametrize(("image", "mask"), [(3, 1), (1, 3), (6, 8)])
def test_pair_that_is_turned_differently_is_an_offence(tmp_path, image, mask):
    pairs = [write_pair(tmp_path, id_) for id_ in "ab"]
    for path, orientation in ((pairs[0].image, image), (pairs[0].mask, mask)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(path).save(path, exif=exif)
    assert offences_of(pairs) == [
        ("a", f"mask {pairs[0].mask} has EXIF orientation {mask}, but its image {image}")
    ]


def test_each_offence_is_logged_and_then_one_line_counts_them(caplog):
    pairs = [Pair(id_, Path(f"{id_}.jpg"), Path(f"{id_}.png")) for id_ in "abcdefgh"]
    offences = [Offence(id_, f"is bad {number}") for id_ in "zgfedcb" for number in (1, 2)]
    message = r"^7 of 9 .* of /data do not fit: b, c, d, e, f and 2 more \(is bad 1; .*\)\. Mend them\.$"
    with pytest.raises(UserError, match=message):
        refuse(offences, pairs, where=Path("/data"), remedy="Mend them.")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 14
    assert caplog.messages == [f"{id_}: is bad {number}" for id_ in "bcdefgz" for number in (1, 2)]


def test_nothing_is_refused_without_offences(caplog):
    refuse([], [], where=Path("/data"), remedy="")
    assert caplog.messages == []
