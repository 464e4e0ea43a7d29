from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polymask.data.images import read_image
from polymask.data.inspection import FileMemory, image_facts, look_at_image, look_at_mask, mask_facts
from polymask.errors import UserError


def with_orientation(orientation: int | None) -> Image.Exif:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    return exif


def damage_unnoticed(path: Path) -> bytes:
    """Overwrite a file and keep its size and times; return what it was."""
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        Image.fromarray(np.uint8([[0, 255, 255], [0, 0, 255]])).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_size_of_an_image_is_that_of_the_decoded_one(tmp_path, orientation, suffix):
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (20, 12)).save(path, exif=with_orientation(orientation))
    facts = look_at_image(path)
    assert (facts.height, facts.width) == read_image(path).shape[:2]
    assert (facts.bits, facts.orientation) == (8, orientation or 1)


def test_damaged_exif_does_not_matter(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (20, 12)).save(path, exif=b"Exif\0\0XX\0*nonsense")
    assert look_at_image(path)[:2] == (12, 20)


@pytest.mark.parametrize(("suffix", "end"), [(".jpg", 2), (".png", 12)])
def test_only_the_header_of_a_whole_file_is_decoded(tmp_path, suffix, end):
    path = tmp_path / f"image{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + whole[-end:])
    assert look_at_image(path)[:2] == (200, 300)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_is_cut_off_is_an_error_but_bytes_after_its_end_are_not(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(16))
    assert look_at_image(path)[:2] == (96, 96)
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match="cannot read image"):
        look_at_image(path)


def test_values_of_a_mask_are_counted(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.uint8([[0, 2, 2], [7, 0, 0]])).save(path)
    facts = look_at_mask(path)
    assert (facts.height, facts.width, facts.bits, facts.lossy) == (2, 3, 8, False)
    assert (facts.counts, facts.colours, facts.alpha) == ([[0, 3], [2, 2], [7, 1]], [], None)


def test_colours_and_alpha_are_counted(tmp_path):
    path = tmp_path / "mask.png"
    pixels = np.uint8([[[255, 0, 0, 9], [255, 0, 0, 9]], [[0, 0, 0, 9], [1, 2, 3, 0]]])
    Image.fromarray(pixels).save(path)
    facts = look_at_mask(path)
    assert facts.colours == [[0xFF0000, 2], [0, 1], [0x010203, 1]]
    assert (facts.counts, facts.alpha) == ([[0, 1], [3, 1], [255, 2]], [[0, 1], [9, 3]])


def test_many_values_of_16_bits_are_rounded_down(tmp_path):
    path = tmp_path / "mask.png"
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(path)
    facts = look_at_mask(path)
    assert facts.bits == 16
    assert facts.counts == [[257 * level, 257] for level in range(255)] + [[65535, 1]]


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), 70000.0])
def test_mask_of_other_values_than_whole_numbers_is_an_error(tmp_path, value):
    path = tmp_path / "mask.tif"
    Image.fromarray(np.full((2, 2), value, np.float32)).save(path)
    with pytest.raises(UserError, match=r"mask .*mask\.tif has values from .* no whole numbers from 0 to 65535"):
        look_at_mask(path)


def test_whole_floating_point_numbers_are_numbers(tmp_path):
    path = tmp_path / "mask.tif"
    Image.fromarray(np.float32([[0, 1], [1, 1]])).save(path)
    assert look_at_mask(path).counts == [[0, 1], [1, 3]]


def test_known_files_are_not_opened_again_until_they_change(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    paths = [folder / "a.png", folder / "b.png"]
    places = {"folder": tmp_path / "deep" / "facts", "root": folder}
    first = image_facts(paths, FileMemory(**places)), mask_facts(paths, FileMemory(**places))
    content = damage_unnoticed(paths[0])
    assert (image_facts(paths, FileMemory(**places)), mask_facts(paths, FileMemory(**places))) == first
    assert caplog.messages == [
        f"looked into 2 {kind} of {folder}, 0 known from before" for kind in ("images", "masks")
    ]
    paths[0].touch()
    for _ in range(2):  # an error is not remembered
        (bad, good) = mask_facts(paths, FileMemory(**places))
        assert isinstance(bad, UserError)
        assert good == first[1][1]
    paths[0].write_bytes(content)
    assert mask_facts(paths, FileMemory(**places)) == first[1]


def test_a_file_that_is_gone_is_an_error_although_it_was_known(folder, tmp_path):
    paths = [folder / "a.png", folder / "b.png"]
    memory = FileMemory(tmp_path / "facts", folder)
    known = mask_facts(paths, memory)
    paths[0].unlink()
    bad, good = mask_facts(paths, memory)
    assert "a.png" in str(bad)
    assert good == known[1]


def test_each_data_set_has_its_own_memory_and_no_folder_means_none(folder, tmp_path):
    paths = [folder / "a.png"]
    for root in (folder, tmp_path / "other"):
        mask_facts(paths, FileMemory(tmp_path / "facts", root))
    assert len(list((tmp_path / "facts").iterdir())) == 2
    shutil.rmtree(tmp_path / "facts")
    mask_facts(paths, FileMemory(None, folder))
    assert not (tmp_path / "facts").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rules": 0, "files": {}}', '{"rules": 1}', "\0"])
def test_damaged_memory_means_to_look_again(folder, tmp_path, content):
    paths = [folder / "a.png"]
    expected = mask_facts(paths, FileMemory(tmp_path / "facts", folder))
    (file,) = (tmp_path / "facts").iterdir()
    file.write_text(content)
    assert mask_facts(paths, FileMemory(tmp_path / "facts", folder)) == expected
    assert len(json.loads(file.read_text())["files"]) == 1


def test_memory_that_cannot_be_written_is_only_warned_of(folder, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert mask_facts([folder / "a.png"], FileMemory(tmp_path / "file", folder))[0].counts == [[0, 3], [255, 3]]
    assert "cannot be written" in caplog.text
