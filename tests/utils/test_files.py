from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from polymask.errors import UserError
from polymask.utils.files import (
    check_report_folder,
    check_writable,
    remove_leftovers,
    report_folder,
    write_atomically,
    write_text,
)

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from polymask.errors import UserError
from polymask.utils.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what a full disk does: a write fails half-way
path = Path(sys.argv[1])
content = {"model": {str(n): torch.zeros(10_000) for n in range(10)}}
for write in (
    lambda file: torch.save(content, file),
    lambda file: np.savez(file, a=np.zeros(50_000), b=np.zeros(50_000)),
    lambda file: file.write(bytes(400_000)),
):
    try:
        write_atomically(path, write)
    except UserError as error:
        print(error)
"""


def test_a_disk_that_takes_no_more_is_one_line_and_the_file_of_before_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_text("before")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        match = re.fullmatch(
            rf"{path} cannot be written \((.+); it needs (.+) MB, .+ MB are free\)\. Make.+", line
        )
        assert match is not None, line
        assert match[1] == "File too large"
        assert float(match[2]) == pytest.approx(0.4, abs=0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert path.read_text() == "before"


def test_an_error_of_the_writer_itself_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", lambda file: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_leftovers_of_one_file_are_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = [".run[1].pt.0a1b2c3d.tmp", ".run[1].pt.ffffffff.tmp"]
    others = [".run1.pt.0a1b2c3d.tmp", ".run[1].pt.b.pt.0a1b2c3d.tmp", "run[1].pt", ".run[1].lock"]
    for name in mine + others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, glob.escape("run[1].pt"))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(others)


def test_a_file_in_the_place_of_a_folder_is_told_and_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    with pytest.raises(
        UserError, match=r"results/test/run is needed for results, but .*results is a file; mend"
    ):
        check_writable(tmp_path / "results" / "test" / "run", remedy="choose another")
    with pytest.raises(UserError, match=r"results is a file; mend that, or choose another local_save_dir"):
        check_report_folder(tmp_path / "results" / "run")
    with pytest.raises(UserError, match=r"results is a file, where a report would be written"):
        check_report_folder(tmp_path / "results")
    check_report_folder(tmp_path / "new" / "deep")
    assert [file.name for file in tmp_path.iterdir()] == ["results"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nothing can be made")
def test_a_report_folder_that_cannot_be_made_is_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^/proc/reports/run cannot be written \(No such file or directory\)"),
        report_folder(Path("/proc/reports/run")),
    ):
        pytest.fail("there is no such folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UserError, match="may not be written to"):
            check_writable(tmp_path / "models", remedy="choose another")
        with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
            write_text(tmp_path / "a", "b")
    finally:
        tmp_path.chmod(0o755)
