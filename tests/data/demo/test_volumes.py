from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from polymask.data.demo import read_ctc_demo
from polymask.data.demo.nuclei import film
from polymask.errors import UserError

SMALL = {"num_frames": 3, "num_objects": 6, "shape": (12, 48, 56)}


def values(path: Path) -> np.ndarray:
    return np.array(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "volumes"
    read_ctc_demo(folder, **SMALL)
    return folder


def test_the_layout_is_that_of_the_challenge_and_says_synthetic(folder):
    records, names = read_ctc_demo(folder, **SMALL)
    assert (len(records), names, records[0].id) == (6, ["cell"], "01/t000")
    assert "SYNTHETIC" in (folder / "README.txt").read_text()
    for record in records:
        sequence, frame = record.image_path.parent.name, record.image_path.stem[1:]
        picture, labels = values(record.image_path), values(record.truth.path)
        assert (picture.shape, picture.dtype, labels.shape, labels.dtype) == (
            (12, 48, 56),
            np.uint16,
            (12, 48, 56),
            np.uint16,
        )
        tracks = folder / f"{sequence}_GT/TRA"
        np.testing.assert_array_equal(values(tracks / f"man_track{frame}.tif"), labels)
        rows = [line.split() for line in (tracks / "man_track.txt").read_text().splitlines()]
        # Every nucleus is there in all frames, so its course is from the first to the last.
        assert rows == [[str(number), "0", "2", "0"] for number in np.unique(labels[labels > 0])]


def test_nuclei_are_whole_bright_and_touch(folder):
    num_contacts = 0
    for path in folder.glob("0?_GT/SEG/*.tif"):
        labels = values(path)
        picture = values(folder / path.parts[-3][:2] / f"t{path.stem[-3:]}.tif")
        numbers = np.unique(labels[labels > 0])
        assert len(numbers) == 6
        for number in numbers:
            assert ndimage.label(labels == number)[1] == 1
        inside = ndimage.binary_erosion(labels > 0, iterations=2)
        assert np.median(picture[inside]) > 1.3 * np.median(picture[labels == 0])
        num_contacts += len(numbers) - ndimage.label(labels > 0)[1]
    assert num_contacts > 6


def test_nuclei_that_must_not_touch_do_not():
    for _, labels in film((24, 96, 96), 8, 1, (0,), touching=False):
        assert ndimage.label(labels > 0, np.ones((3, 3, 3)))[1] == len(np.unique(labels)) - 1 > 4


def test_equal_arguments_give_equal_bytes_and_other_seeds_others(folder, tmp_path):
    read_ctc_demo(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(folder)
    read_ctc_demo(tmp_path / "other", **SMALL, seed=1)
    other, same = contents(tmp_path / "other"), contents(folder)
    assert other.keys() == same.keys()
    assert not any(other[name] == same[name] for name in same if name.endswith(".tif"))


def test_nuclei_move_a_little_from_frame_to_frame(folder):
    first, last = (values(folder / f"01_GT/SEG/man_seg00{frame}.tif") for frame in (0, 2))
    both, any_ = ((first == last) & (first > 0)).sum(), ((first > 0) | (last > 0)).sum()
    assert 0.5 < both / any_ < 0.98


def test_another_demo_or_something_else_is_not_replaced(folder, tmp_path):
    with pytest.raises(UserError, match=r"was not made with num_sequences=2, .*num_objects=7.*Remove it"):
        read_ctc_demo(folder, **{**SMALL, "num_objects": 7})
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists but has no 01"):
        read_ctc_demo(tmp_path / "mine", **SMALL)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shape": (12, 48)}, r"data.reader.shape=\[12, 48\] is not valid; give \[z, y, x\]"),
        ({"shape": (4, 48, 48)}, r"at least \[8, 32, 32\]"),
        ({"num_frames": 0}, "data.reader.num_frames=0"),
        ({"seed": -1}, "data.reader.seed=-1"),
    ],
)
def test_arguments_out_of_range_leave_nothing(tmp_path, options, match):
    with pytest.raises(UserError, match=match):
        read_ctc_demo(tmp_path / "demo", **options)
    assert list(tmp_path.iterdir()) == []
