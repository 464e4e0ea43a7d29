from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from polymask.families.volumes import ctc
from polymask.families.volumes.ctc import TrueFrame, mask_path, number_apart, write_masks, write_tracks


def numbers(seed: int, most: int, shape: tuple[int, int, int] = (5, 17, 23)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most + 1, shape, np.uint16)


def read(path: Path) -> np.ndarray:
    return np.stack(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def test_names_are_those_of_the_challenge_and_others_stay() -> None:
    assert mask_path("01/t000") == Path("01_RES/mask000.tif")
    assert mask_path("Fluo-N3DH-CE/02/t0117") == Path("Fluo-N3DH-CE/02_RES/mask0117.tif")
    for name in ("cells", "mouse/left", "01/t00", "t000"):
        assert mask_path(name) == Path("label_maps", f"{name}.tif")


def test_frames_count_from_zero_in_each_sequence() -> None:
    ids = ["02/t0007", "01/t003", "02/t0006", "01/t000", "cells"]
    expected = {"01/t000": "01/t000", "01/t003": "01/t001", "02/t0006": "02/t0000", "02/t0007": "02/t0001"}
    assert ctc.frames_from_zero(ids) == expected | {"cells": "cells"}


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_two_other_libraries_read_the_pages(tmp_path: Path, depth: int) -> None:
    labels = numbers(0, 65535, (depth, 17, 23))  # noise: deflate makes some pages of odd length
    write_masks(tmp_path / "new/mask000.tif", labels)
    np.testing.assert_array_equal(read(tmp_path / "new/mask000.tif"), labels)
    with tifffile.TiffFile(tmp_path / "new/mask000.tif") as file:
        assert [page.compression for page in file.pages] == [8] * depth  # Adobe's deflate
        np.testing.assert_array_equal(np.stack([page.asarray() for page in file.pages]), labels)


def test_slices_are_taken_one_by_one_and_shrink(tmp_path: Path) -> None:
    labels, taken = np.zeros((40, 256, 256), np.uint16), []
    labels[:, 100:130, 90:120] = 300

    def pages():
        for page in labels:
            taken.append(page)
            yield page

    write_masks(tmp_path / "mask000.tif", pages(), offset=7)
    assert len(taken) == 40
    np.testing.assert_array_equal(read(tmp_path / "mask000.tif"), np.where(labels > 0, 307, 0))
    assert (tmp_path / "mask000.tif").stat().st_size < labels.nbytes / 100


def test_an_error_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    def pages():
        yield np.zeros((4, 4), np.uint16)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_masks(tmp_path / "mask000.tif", pages())
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_frames_are_made_different_once(tmp_path: Path) -> None:
    counts = [3, 0, 4, 2]
    volumes = [numbers(seed, count) for seed, count in enumerate(counts)]
    for frame, volume in enumerate(volumes):
        write_masks(tmp_path / f"mask{frame:03}.tif", volume)
    assert number_apart(tmp_path, counts) == [0, 3, 3, 7]
    for frame, (volume, offset) in enumerate(zip(volumes, (0, 3, 3, 7), strict=True)):
        raised = np.where(volume > 0, volume + offset, 0)
        np.testing.assert_array_equal(read(tmp_path / f"mask{frame:03}.tif"), raised)
    lines = [f"{n} 0 0 0" for n in (1, 2, 3)] + [f"{n} 2 2 0" for n in (4, 5, 6, 7)] + ["8 3 3 0", "9 3 3 0"]
    assert (tmp_path / "res_track.txt").read_text().splitlines() == lines
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tif")}
    # A run that goes on: nothing is written anew but what changed.
    write_masks(tmp_path / "mask002.tif", numbers(5, 1))
    assert number_apart(tmp_path, [3, 0, 1, 2]) == [0, 3, 3, 4]
    assert read(tmp_path / "mask003.tif").max() == 6
    for name in ("mask000.tif", "mask001.tif"):
        assert (tmp_path / name).stat().st_mtime_ns == before[tmp_path / name]


def test_more_objects_than_numbers_have_no_tracks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volumes = [numbers(seed, 5) for seed in range(2)]
    for frame, volume in enumerate(volumes):
        write_masks(tmp_path / f"mask{frame:03}.tif", volume, offset=5 * frame)
    write_tracks(tmp_path / "res_track.txt", [(0, [1])])
    with caplog.at_level(logging.WARNING):
        assert number_apart(tmp_path, [40_000, 40_000]) == [0, 0]
    assert "16 bits" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask000.tif", "mask001.tif"]
    np.testing.assert_array_equal(read(tmp_path / "mask001.tif"), volumes[1])


def frames_of(folder: Path, *frames: tuple[str, list[int]]) -> list[TrueFrame]:
    result = []
    for index, (digits, labels) in enumerate(frames):
        file = folder / f"01_GT/SEG/man_seg{digits}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        result.append(TrueFrame(f"01/t{digits}", f"01/t{index:03}", [file], np.array(labels)))
    return result


def test_tracks_of_the_data_set_are_cut_to_the_tested_frames(tmp_path: Path) -> None:
    frames = frames_of(tmp_path / "data", ("003", [1, 4]), ("004", [4, 5]), ("005", [5, 6]))
    tra = tmp_path / "data/01_GT/TRA"
    tra.mkdir()
    for number in range(8):
        (tra / f"man_track{number:03}.tif").write_text(str(number))
    # 2 ends before; 4 goes on from 1, which is seen, and 6 from 2, which is not.
    (tra / "man_track.txt").write_text("1 0 3 0\n2 0 2 0\n4 4 4 1\n5 4 7 0\n6 5 5 2\n")
    ctc.link_tracks(tmp_path / "report", "01", frames)
    written = tmp_path / "report/01_GT/TRA"
    assert (written / "man_track.txt").read_text() == "1 0 0 0\n4 1 1 1\n5 1 2 0\n6 2 2 0\n"
    assert [(written / f"man_track{n:03}.tif").read_text() for n in range(3)] == ["3", "4", "5"]


def test_without_tracks_the_volumes_themselves_are_the_markers(tmp_path: Path) -> None:
    frames = frames_of(tmp_path / "data", ("000", [1, 7]), ("001", [7]), ("002", [2, 7]))
    ctc.link_tracks(tmp_path / "report", "01", frames)
    written = tmp_path / "report/01_GT/TRA"
    assert (written / "man_track.txt").read_text() == "1 0 0 0\n2 2 2 0\n7 0 2 0\n"
    assert (written / "man_track002.tif").resolve().name == "man_seg002.tif"


def test_a_disk_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    (frame,) = frames_of(tmp_path / "data", ("000", [1]))
    frame.files[0].write_text("labels")
    monkeypatch.setattr("os.symlink", refuse)
    ctc.link_truth(tmp_path / "report", "01/t000", frame.files)
    copied = tmp_path / "report/01_GT/SEG/man_seg000.tif"
    assert not copied.is_symlink()
    assert copied.read_text() == "labels"
