from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polymask.data.cache import SampleCache, file_key
from polymask.errors import UserError

SHAPE = (4, 5, 3)
SOURCE = Path(__file__).parents[2] / "src"


def open_cache(folder: Path, *, key: str = "a", num_samples: int = 6) -> SampleCache:
    return SampleCache(folder, key=[key], num_samples=num_samples, shape=SHAPE)


def row_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, SHAPE, dtype=np.uint8)


class Reader:
    """Makes a row and counts how often it was asked."""

    def __init__(self, index: int) -> None:
        self.index, self.calls = index, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return row_of(self.index)


def test_second_read_does_not_call_the_reader(tmp_path):
    cache = open_cache(tmp_path)
    readers = [Reader(index) for index in range(6)]
    for _ in range(3):
        for index, reader in enumerate(readers):
            np.testing.assert_array_equal(cache.get(index, reader), row_of(index))
    assert [reader.calls for reader in readers] == [1] * 6


def test_a_later_run_finds_the_rows(tmp_path):
    open_cache(tmp_path).get(2, Reader(2))
    reader = Reader(2)
    np.testing.assert_array_equal(open_cache(tmp_path).get(2, reader), row_of(2))
    assert reader.calls == 0


def test_all_zero_rows_are_remembered_too(tmp_path):
    cache, calls = open_cache(tmp_path), []
    for _ in range(2):
        cache.get(0, lambda: calls.append(0) or np.zeros(SHAPE, np.uint8))
    assert len(calls) == 1


@pytest.mark.parametrize("times", [1, 2], ids=["first read", "second read"])
def test_rows_are_read_only(tmp_path, times):
    cache = open_cache(tmp_path)
    for _ in range(times):
        row = cache.get(0, Reader(0))
    with pytest.raises(ValueError, match="read-only"):
        row[:] = 0
    np.testing.assert_array_equal(cache.get(0, Reader(0)), row_of(0))


def test_another_key_or_shape_is_another_file(tmp_path):
    open_cache(tmp_path, key="a").get(0, Reader(0))
    reader = Reader(1)
    np.testing.assert_array_equal(open_cache(tmp_path, key="b").get(0, reader), row_of(1))
    other = SampleCache(tmp_path, key=["a"], num_samples=6, shape=(5, 4, 3))
    np.testing.assert_array_equal(other.get(0, lambda: np.ones((5, 4, 3), np.uint8)), 1)
    assert len(list(tmp_path.glob("*.rows"))) == 3


def test_file_key_changes_with_size_time_and_name(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"123")
    os.utime(path, ns=(10, 10))
    keys = [file_key(path)]
    path.write_bytes(b"1234")
    os.utime(path, ns=(10, 10))
    keys.append(file_key(path))
    path.write_bytes(b"567")
    os.utime(path, ns=(10, 11))
    keys.append(file_key(path))
    keys += [file_key(path.rename(tmp_path / "b.png")), file_key(None)]
    assert len(set(keys)) == 5
    os.utime(tmp_path / "b.png", ns=(99, 11))  # when it was read last does not matter
    assert file_key(tmp_path / "b.png") == keys[3]


def test_file_key_of_a_broken_link_is_a_user_error(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"cannot read .*link\.png: No such file"):
        file_key(tmp_path / "link.png")


def test_pickled_cache_is_small_and_shares_the_file(tmp_path):
    cache = open_cache(tmp_path, num_samples=1000)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 2000 < 1000 * np.prod(SHAPE)
    pickle.loads(pickled).get(7, Reader(7))
    reader = Reader(7)
    np.testing.assert_array_equal(cache.get(7, reader), row_of(7))
    assert reader.calls == 0


def test_reader_that_fails_leaves_the_row_unfilled(tmp_path):
    cache = open_cache(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        cache.get(0, lambda: (_ for _ in ()).throw(UserError("damaged")))
    np.testing.assert_array_equal(cache.get(0, Reader(0)), row_of(0))


WRITER = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from polymask.data.cache import SampleCache

folder, mode, shape = Path(sys.argv[1]), sys.argv[2], (64, 64, 4)
cache = SampleCache(folder, key=["a"], num_samples=200, shape=shape)

class Dying:
    '''Written halfway into the row when the process is killed.'''
    def __array__(self, dtype=None, copy=None):
        cache._rows[0, :32] = 99
        os.kill(os.getpid(), signal.SIGKILL)

if mode == "die":
    cache.get(0, Dying)
print("ready", flush=True)
sys.stdin.readline()
read = 0
for index in range(200):
    def reader():
        global read
        read += 1
        return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
    row = cache.get(index, reader)
    assert (row == np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)).all(), index
print(read)
"""


def start_writer(folder: Path, mode: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), mode], env=environment, **pipes)


def test_killed_writer_leaves_the_row_unfilled(tmp_path):
    writer = start_writer(tmp_path, "die")
    assert writer.wait(timeout=60) == -signal.SIGKILL, writer.stderr.read()
    writer.communicate()
    cache = SampleCache(tmp_path, key=["a"], num_samples=200, shape=(64, 64, 4))
    whole = np.full((64, 64, 4), 7, np.uint8)
    np.testing.assert_array_equal(cache.get(0, lambda: whole), whole)


def test_two_processes_fill_one_file_consistently(tmp_path):
    writers = [start_writer(tmp_path, "fill") for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        errors = writer.communicate(timeout=60)[1]
        assert writer.returncode == 0, errors
    cache = SampleCache(tmp_path, key=["a"], num_samples=200, shape=(64, 64, 4))
    for index in range(200):
        expected = np.random.default_rng(index).integers(0, 256, (64, 64, 4), dtype=np.uint8)
        np.testing.assert_array_equal(cache.get(index, Reader(0)), expected)


def test_folder_that_cannot_be_created_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir=.*file.* cannot be used: .*data\.cache_dir=null"):
        open_cache(tmp_path / "file" / "below")


def test_too_little_room_is_a_user_error_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"GB free but the decoded samples take 1000000\.0 GB"):
        SampleCache(tmp_path, key=["a"], num_samples=1000, shape=(10**6, 10**6))
    assert not list(tmp_path.glob("*.rows"))
