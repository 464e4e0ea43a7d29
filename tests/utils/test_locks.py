from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from polymask.utils.locks import try_lock

HOLD = """
import os, sys, time
from pathlib import Path
from polymask.utils.locks import try_lock
with try_lock(Path(sys.argv[1])) as is_free:
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)  # as a loader worker does, which outlives its parent for seconds
    print(is_free, flush=True)
    time.sleep(60)
"""


def hold(path: Path, *options: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *options],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def is_free(path: Path) -> bool:
    with try_lock(path) as free:
        return free


def test_a_lock_is_held_until_its_process_dies_even_if_its_fork_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    process = hold(path, "fork")
    try:
        assert not is_free(path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 10  # the fork may not have run yet
        while not is_free(path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


def test_a_lock_that_was_given_back_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    assert not list(tmp_path.iterdir())
    assert is_free(path)


def test_of_many_that_take_turns_never_two_hold_the_lock(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from polymask.utils.locks import try_lock
folder, end = Path(sys.argv[1]), time.monotonic() + 0.7
while time.monotonic() < end:
    with try_lock(folder / "lock") as is_free:
        if is_free:
            (folder / "alone").open("x").close()
            (folder / "alone").unlink()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
