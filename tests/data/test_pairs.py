from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.images import read_image
from polymask.data.pairs import Offence, Pair, check_pairs, image_size, match_names, refuse
from polymask.errors import UserError

MASK = np.repeat(np.uint8([0, 255, 255, 0]), 16).reshape(8, 8)


def write_pair(folder: Path, id_: str, mask: np.ndarray = MASK, size: tuple[int, int] = (8, 8)) -> Pair:
    pair = Pair(id_, folder / f"{id_}.jpg", folder / f"{id_}_mask.png")
    cv2.imwrite(str(pair.image), np.full((*size, 3), 128, np.uint8))
    cv2.imwrite(str(pair.mask), mask)
    return pair


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
    assert check_pairs(pairs) == []


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
    problems = {offence.id: offence.problem.split(" has ")[1] for offence in check_pairs(pairs)}
    assert problems == {
        "few": "values other than 0 and 255 in 6.25% of it: 1, 128, 254",
        "many": "values other than 0 and 255 in 12.50% of it: 1, 2, 3, 4, 5 and 3 more",
        "labels": "values other than 0 and 255 in 50.00% of it: 1",
        "deep": "values other than 0 and 255 in 50.00% of it: 65535",
    }


def test_sizes_that_differ_and_all_problems_of_a_pair_are_named(tmp_path):
    pairs = [write_pair(tmp_path, "a", MASK // 255, size=(8, 16)), write_pair(tmp_path, "b")]
    offences = check_pairs(pairs)
    assert [offence.id for offence in offences] == ["a", "a"]
    assert offences[0].problem == f"mask {pairs[0].mask} is 8 x 8 pixels but its image is 16 x 8"
    assert "values other than 0 and 255" in offences[1].problem


def test_files_that_cannot_be_read_are_named_and_the_others_still_checked(tmp_path):
    pairs = [write_pair(tmp_path, id_) for id_ in "abcd"]
    pairs[0].image.write_bytes(b"no image")
    pairs[1].mask.write_bytes(b"")
    pairs[2].mask.unlink()
    pairs[2].mask.symlink_to(tmp_path / "nowhere")
    assert [(o.id, o.problem.split(":")[0]) for o in check_pairs(pairs)] == [
        ("a", f"cannot read image {pairs[0].image}"),
        ("b", f"cannot read mask {pairs[1].mask}"),
        ("c", f"cannot read mask {pairs[2].mask}"),
    ]


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_image_size_is_that_of_the_decoded_image(tmp_path, orientation, suffix):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (20, 12)).save(path, exif=exif)
    assert image_size(path) == read_image(path).shape[:2]
    if suffix == ".jpg":
        assert image_size(path) == ((20, 12) if orientation in (5, 6, 7, 8) else (12, 20))


def test_damaged_exif_does_not_matter(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (20, 12)).save(path, exif=b"Exif\0\0XX\0*nonsense")
    assert image_size(path) == (12, 20)


def test_only_the_header_of_a_whole_jpeg_is_decoded(tmp_path):
    path = tmp_path / "image.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + whole[-2:])
    assert image_size(path) == (200, 300)


def test_an_image_that_is_cut_off_is_an_offence_but_bytes_after_its_end_are_not(tmp_path):
    pairs = [write_pair(tmp_path, id_, size=(96, 96), mask=np.zeros((96, 96), np.uint8)) for id_ in "ab"]
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    for pair in pairs:
        Image.fromarray(noise).save(pair.image)
    whole = pairs[0].image.read_bytes()
    pairs[0].image.write_bytes(whole[: len(whole) // 2])
    pairs[1].image.write_bytes(whole + bytes(16))
    (offence,) = check_pairs(pairs)
    assert offence.id == "a"
    assert "cannot read image" in offence.problem


def test_pairs_that_passed_are_not_looked_at_again_until_a_file_changes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pairs = [write_pair(tmp_path, id_) for id_ in "ab"]
    memory = tmp_path / "deep" / "memory.json"
    assert check_pairs(pairs, memory=memory) == []
    # Damaged behind its back, same size and time: nobody looks.
    status, content = pairs[0].mask.stat(), pairs[0].mask.read_bytes()
    pairs[0].mask.write_bytes(bytes(len(content)))
    os.utime(pairs[0].mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert check_pairs(pairs, memory=memory) == []
    assert caplog.messages == ["verified 2 image-mask pairs, 0 known from before"]
    os.utime(pairs[0].mask, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert [offence.id for offence in check_pairs(pairs, memory=memory)] == ["a"]
    assert [offence.id for offence in check_pairs(pairs, memory=memory)] == ["a"]
    pairs[0].mask.write_bytes(content)
    assert check_pairs(pairs, memory=memory) == []


def test_pair_that_did_not_pass_is_not_remembered_but_the_others_are(tmp_path):
    pairs = [write_pair(tmp_path, "a"), write_pair(tmp_path, "b", MASK // 255)]
    memory = tmp_path / "memory.json"
    for _ in range(2):
        assert [offence.id for offence in check_pairs(pairs, memory=memory)] == ["b"]
        assert len(json.loads(memory.read_text())) == 1


@pytest.mark.parametrize("content", ["", "{", "{}", '["", 1, null]', "\0"])
def test_damaged_memory_means_to_look_again(tmp_path, content):
    memory = tmp_path / "memory.json"
    memory.write_text(content)
    pairs = [write_pair(tmp_path, "a", MASK // 255), write_pair(tmp_path, "b")]
    assert [offence.id for offence in check_pairs(pairs, memory=memory)] == ["a"]
    assert len(json.loads(memory.read_text())) == 1


def test_memory_that_cannot_be_written_is_only_warned_of(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert check_pairs([write_pair(tmp_path, "a")], memory=tmp_path / "file" / "memory.json") == []
    assert "cannot be written" in caplog.text


def test_each_offence_is_logged_and_then_one_line_counts_them(caplog):
    pairs = [Pair(id_, Path(f"{id_}.jpg"), Path(f"{id_}.png")) for id_ in "abcdefgh"]
    offences = [Offence(id_, f"is bad {number}") for id_ in "zgfedcb" for number in (1, 2)]
    message = r"^7 of 9 .* of /data do not fit: b, c, d, e, f and 2 more \(.*\)\. Mend them\.$"
    with pytest.raises(UserError, match=message):
        refuse(offences, pairs, where=Path("/data"), remedy="Mend them.")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 14
    assert caplog.messages == [f"{id_}: is bad {number}" for id_ in "bcdefgz" for number in (1, 2)]


def test_nothing_is_refused_without_offences(caplog):
    refuse([], [], where=Path("/data"), remedy="")
    assert caplog.messages == []
