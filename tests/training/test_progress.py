from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from polymask.training.progress import Progress, log_epoch

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = """
import logging, sys
from polymask.training.progress import Progress, log_epoch
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
noted = 0
progress = Progress("epoch 1", enabled=sys.argv[1] == "True")
with progress.over(7):
    for _ in range(7):
        if progress.advance(4):
            noted += 1
            progress.note(0.1234)
log_epoch(1, 5, {"train/loss": 1.0, "train/images_per_second": 10.0}, monitors=["val/loss"], best=[])
print("noted", noted, "images", progress.images)
"""


def run_script(*, enabled: bool, stderr: int) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", SCRIPT, str(enabled)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True, timeout=60
    )
    return done.stdout


def on_terminal(*, enabled: bool) -> tuple[str, str]:
    """Standard output of the script, and what it wrote to a pseudo-terminal as standard error."""
    ours, theirs = pty.openpty()
    try:
        output = run_script(enabled=enabled, stderr=theirs)
        os.set_blocking(ours, False)
        try:
            shown = os.read(ours, 100_000).decode()
        except BlockingIOError:
            shown = ""
    finally:
        os.close(ours)
        os.close(theirs)
    return output, shown


def test_bar_on_a_terminal():
    output, shown = on_terminal(enabled=True)
    assert "epoch 1" in shown
    assert "7/7" in shown
    assert "loss 0.1234" in shown
    assert "images/s" in shown
    lines = output.splitlines()
    assert lines[0].startswith("epoch 1/5  train/loss 1")
    assert lines[1] == "noted 1 images 28"  # the loss is read at most twice a second


def test_no_bar_of_the_other_processes():
    output, shown = on_terminal(enabled=False)
    assert shown == ""
    assert output.endswith("noted 0 images 28\n")


def test_plain_lines_without_a_terminal(tmp_path):
    with (tmp_path / "stderr").open("w+") as file:
        output = run_script(enabled=True, stderr=file.fileno())
        file.seek(0)
        assert file.read() == ""
    assert output.splitlines()[0].startswith("epoch 1/5")
    assert "\x1b" not in output


def test_speed_counts_images_since_the_start():
    progress = Progress("x")
    begun = time.perf_counter()
    with progress.over(2):
        for _ in range(2):
            time.sleep(0.02)
            progress.advance(50)
    elapsed = time.perf_counter() - begun
    assert progress.images_per_second == pytest.approx(100 / elapsed, rel=0.2)


TRAINING = """
import sys
from pathlib import Path
from stub_task import StubTask, fit, make_trainer
fit(make_trainer(epochs=2), StubTask(), Path(sys.argv[1]))
"""


def test_a_training_on_a_terminal_warns_of_nothing_and_shows_the_time_left(tmp_path):
    path = os.pathsep.join([str(SOURCE), str(SOURCE.parent / "tests" / "helpers")])
    environment = {**os.environ, "PYTHONPATH": path, "TERM": "xterm", "COLUMNS": "140"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-W", "error:Converting:UserWarning", "-c", TRAINING, str(tmp_path)]
    done = subprocess.run(command, env=environment, stderr=theirs, check=False, timeout=60)
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # how Linux says that all was read
        while part := os.read(ours, 100_000):
            shown += part.decode()
    os.close(ours)
    assert done.returncode == 0, shown
    assert "Warning" not in shown
    assert re.search(r"epoch 1 .*loss \d.*all 0:00:\d\d", shown)


def test_time_left_over_all_epochs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    first, later = Progress("epoch 1", epochs_left=3), Progress("epoch 2", epochs_left=2, epoch_seconds=50.0)
    for progress in (first, later):
        with progress.over(4):
            progress.advance(1)
        now[0] += 10.0
        progress.advance(1)
        now[0] -= 10.0
    now[0] += 10.0
    assert first.seconds_left == 3 * 20 - 10  # two of four batches took 10 seconds
    assert later.seconds_left == 2 * 50 - 10  # with the validation that earlier epochs had


def test_line_of_an_epoch_shows_each_value_once(caplog):
    metrics = {
        "train/loss": 0.5,
        "val/loss": 0.25,
        "val/dice_lesion_image": 0.75,
        "val/other": 0.125,
        "learning_rate": 0.0003,
        "train/images_per_second": 123.4,
    }
    with caplog.at_level(logging.INFO):
        headline = ["dice_lesion_image", "loss", "other"]
        log_epoch(
            3, 10, metrics, monitors=["val/loss"], headline=headline, best=["val/loss"], seconds_left=61.0
        )
        log_epoch(4, 10, metrics, monitors=["val/other"], best=[], seconds_left=120.0)
        log_epoch(10, 10, metrics, monitors=["val/other"], best=[])
    begin, *pairs, speed, left, best = caplog.messages[0].split("  ")
    assert (begin, speed, left, best) == ("epoch 3/10", "123 images/s", "0:01:01 left", "best")
    values = {name: float(value) for name, value in (pair.split(" ") for pair in pairs)}
    names = ("train/loss", "val/loss", "val/dice_lesion_image", "learning_rate")
    assert values == {name: metrics[name] for name in names}
    assert "val/other 0.125" in caplog.messages[1]
    assert caplog.messages[1].endswith("0:02:00 left")
    assert caplog.messages[2].endswith("images/s")
