from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from volume_files import write_ctc, write_stack

from polymask.data import volume_cache
from polymask.data.records import Record
from polymask.data.sources import read_ctc
from polymask.data.volume_cache import VolumeCache
from polymask.errors import UserError
from polymask.structures.volumes import VolumeView

SHAPE = (6, 48, 48)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    return read_ctc(write_ctc(tmp_path / "ctc"))[0]


def values(path: Path) -> np.ndarray:
    return np.array(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def windowed(volume: np.ndarray, percentiles: tuple[float, float] = (0.1, 99.9)) -> np.ndarray:
    """What a volume becomes, computed of the whole of it."""
    low, high = np.percentile(volume, percentiles, method="inverted_cdf").astype(float)
    return np.rint((volume - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def test_volumes_and_labels_are_on_disk_as_they_were_read(records, tmp_path):
    cache = VolumeCache(tmp_path / "cache")
    cache.fill(records, [SHAPE] * len(records))
    assert len(list((tmp_path / "cache").iterdir())) == 2 * len(records)
    for record in records:
        volume, labels = cache.views(record, SHAPE)
        assert (volume.shape, volume.dtype, labels.shape, labels.dtype) == (SHAPE, "uint8", SHAPE, "uint16")
        np.testing.assert_array_equal(volume.open(), windowed(values(record.image_path)))
        np.testing.assert_array_equal(labels.open(), values(record.truth.path))


def test_without_a_folder_the_same_comes_from_memory(records, tmp_path):
    kept, plain = VolumeCache(tmp_path / "cache"), VolumeCache(None)
    plain.fill(records, [SHAPE] * len(records))
    for record in records:
        for one, other in zip(kept.views(record, SHAPE), plain.views(record, SHAPE), strict=True):
            np.testing.assert_array_equal(one.open(), other.open())
            assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_each_volume_is_decoded_once(records, tmp_path, monkeypatch):
    VolumeCache(tmp_path / "cache").fill(records, [SHAPE] * len(records))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    monkeypatch.setattr(volume_cache, "volume_pages", None)
    again = VolumeCache(tmp_path / "cache")
    again.fill(records, [SHAPE] * len(records))
    assert all(isinstance(view, VolumeView) for record in records for view in again.views(record, SHAPE))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps


def test_size_and_window_and_file_are_in_the_key(records, tmp_path):
    record, folder = records[0], tmp_path / "cache"
    plain, _ = VolumeCache(folder).views(record, SHAPE)
    wide, _ = VolumeCache(folder, percentiles=(10, 90)).views(record, SHAPE)
    small, labels = VolumeCache(folder, image_size=(32, 40)).views(record, SHAPE)
    assert len({plain.path, wide.path, small.path}) == 3
    np.testing.assert_array_equal(wide.open(), windowed(values(record.image_path), (10, 90)))
    assert small.open().shape == (6, 32, 40)
    expected = [cv2.resize(page, (40, 32), interpolation=cv2.INTER_AREA) for page in plain.open()]
    np.testing.assert_array_equal(small.open(), expected)
    assert labels.shape == SHAPE  # truth keeps its size
    write_stack(record.image_path, values(record.image_path)[::-1].copy())
    os.utime(record.image_path, ns=(1, 1))
    turned, _ = VolumeCache(folder).views(record, SHAPE)
    np.testing.assert_array_equal(turned.open(), plain.open()[::-1])


def test_a_torn_file_is_made_anew(records, tmp_path):
    volume, _ = VolumeCache(tmp_path / "cache").views(records[0], SHAPE)
    wanted = volume.open().copy()
    volume.path.write_bytes(volume.path.read_bytes()[:1000])
    volume, _ = VolumeCache(tmp_path / "cache").views(records[0], SHAPE)
    np.testing.assert_array_equal(volume.open(), wanted)


def test_a_damaged_volume_leaves_nothing_half_written(records, tmp_path):
    path = records[1].image_path
    data = path.read_bytes()
    for damaged, match in (
        (data[:2000] + bytes(300) + data[2300:], f"cannot read volume {path}: .*page 0"),
        (data[:-3000], "the file ends before its last page"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=match):
            VolumeCache(tmp_path / "cache").fill(records[1:2], [SHAPE])
        assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(records, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache_dir=.*file/x cannot be used"):
        VolumeCache(tmp_path / "file" / "x")


def test_a_bar_is_shown_on_a_terminal_at_first_use_only(records, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    VolumeCache(tmp_path / "cache").fill(records, [SHAPE] * len(records))
    assert "volumes decoded once" in capsys.readouterr().err
    VolumeCache(tmp_path / "cache").fill(records, [SHAPE] * len(records))
    assert capsys.readouterr().err == ""
