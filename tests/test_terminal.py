"""What a person sees at a terminal: starting, mistyped flags, the box of a run, the table of a sweep."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import fails

from polymask import cli
from polymask.errors import UserError, choose, listed
from polymask.run_summary import _program, run_summary
from polymask.sweep_table import SweepJob, sweep_table
from polymask.tracking.base import NoTracker
from polymask.tracking.mlflow_tracker import MlflowTracker
from polymask.training.state import TrainingState
from polymask.training.trainer import Trainer
from polymask.utils.text_tables import duration

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize("module", ["polymask", "polymask.cli"])
def test_modules_work_like_the_command(module: str, tmp_path: Path) -> None:
    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )

    wrong = start("train", "epoch=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Did you mean 'epochs'?" in wrong.stderr
    shown = start("train", "--cfg", "job", "run_name=1e5")
    assert shown.returncode == 0
    assert "run_name: '1e5'" in shown.stdout


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("--epochs 3", "write epochs=3"),
        ("--epochs=3", "write epochs=3"),
        ("-epochs 3", "write epochs=3"),
        ("--batch-size 4", "write data.batch_size=4"),
        ("--lr 1 seed=3", "write optimizer.learning_rate=1"),
        ("--resume seed=3", "write resume=…"),
        ("--data demo", "write data=demo"),
        ("--nonsense-at-all-zz", "key=value"),
        ("epochs", "'epochs' is not key=value; write epochs=…"),
        ("epochs=3 7", "'7' is not key=value"),
        ("--cfg all-of-it", "invalid choice: 'all-of-it'"),
        ("-m --cfg job", "Only one of"),
    ],
)
def test_a_flag_or_word_that_is_no_pair(
    words: str, remedy: str, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    assert remedy in fails(capsys, "train", *words.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=~3", "'optimizer.learning_rate=\"~3\"'"),
        ("epochs=a=b", "'epochs=\"a=b\"'"),
        ("epochs=3,5", "add -m for one run each"),
        ("epochs=[3", "lists are written 'epochs=[a,b]'"),
    ],
)
def test_a_value_that_cannot_be_read(
    override: str, message: str, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    assert message in fails(capsys, "train", override)


@pytest.mark.parametrize("folder", ["2018_07", "1e5", "HAM (1)", "a=b", "x,y"])
def test_folders_of_any_name(folder: str, capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert f"{project}/{folder}" in fails(capsys, "train", f"data.data_dir={folder}")
    assert f"run_name={folder!r}" in fails(capsys, "test", f"run_name={folder}")


def test_home_is_expanded(
    capsys: pytest.CaptureFixture[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project / "home"))
    assert f"{project}/home/ham" in fails(capsys, "train", "data.data_dir=~/ham")


def test_operands_are_text_also_with_flags(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert "run_name='2025'" in fails(capsys, "compare", "2025", "1e5")
    assert "'1e5'" in fails(capsys, "summarize", "1e5")
    cli.main(["compare", "--cfg", "job", "2025", "1e5"])
    assert "run_a: '2025'\nrun_b: '1e5'" in capsys.readouterr().out


def test_a_run_with_an_equals_sign_is_an_operand(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    checkpoints = project / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "a_lr=0.1.pt").touch()
    assert "a_lr=0.1.pt cannot be read" in fails(capsys, "compare", "a_lr=0.1", "b")
    (checkpoints / "a_lr=0.1@dice.pt").touch()
    assert "a_lr=0.1@dice.pt cannot be read" in fails(capsys, "compare", "a_lr=0.1@val/dice", "b")
    assert "'b_lr' is not a configuration key" in fails(capsys, "compare", "a_lr=0.1", "b_lr=0.2")


def test_long_lists_are_cut_to_the_nearest_five() -> None:
    options = [f"resnet{number}" for number in range(200)]
    with pytest.raises(UserError) as raised:
        choose("model", "resnet19x", options, how_to_list="python -c 'x'")
    message = str(raised.value)
    assert len(re.findall(r"resnet\d+(?!x)\b", message.partition("nearest of 200 are")[2])) == 5
    assert message.endswith("all of them: python -c 'x'.")
    assert listed("b", ["a", "c"]) == "Allowed: a, c."


def summary(
    epoch: int, *, tracker: object = None, can_infer: bool = True, **state_fields: object
) -> dict[str, str]:
    history = [{"epoch": n + 1, "epoch_seconds": 10.0 + n} for n in range(epoch)]
    course = {"epoch": epoch, "best_value": 0.25, "best_epoch": 2, "epochs_since_best": 3, "history": history}
    state = TrainingState(**course, **state_fields)
    settings = Trainer(epochs=5, patience=3, seed=4, device="cpu").settings
    text = run_summary(
        "my run",
        state,
        settings,
        "val/loss",
        Path("/m/my run.pt"),
        Path("/r/my run"),
        tracker or NoTracker(),
        Path("/o/metrics.csv"),
        can_infer=can_infer,
    )
    lines = text.splitlines()
    return {"title": lines[0], **dict(re.split(r"  +", line, maxsplit=1) for line in lines[2:-1])}


def test_the_box_names_all_that_came_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = summary(5, tracker=MlflowTracker(tracking_uri="sqlite:////m/ml runs/mlflow.db"))
    assert rows["title"] == "run my run: epoch 5 of 5, done"
    assert rows["best"] == "epoch 2: val/loss 0.25"
    assert rows["checkpoint"] == "/m/my run.pt"
    assert rows["report"] == "/r/my run"
    assert rows["time"] == "12.0 s per epoch, 0:01:00 in all"
    assert rows["seed"] == "4"
    assert shlex.split(rows["MLflow"])[-2:] == ["--backend-store-uri", "sqlite:////m/ml runs/mlflow.db"]
    assert shlex.split(rows["test"])[-1] == "run_name=my run"
    assert shlex.split(rows["infer"])[-2:] == ["run_name=my run", "data.data_dir=images/"]
    assert shlex.split(rows["resume"])[-1] == "epochs=10"


def test_the_box_names_no_inference_where_nothing_can_be_applied() -> None:
    assert summary(5).keys() - summary(5, can_infer=False).keys() == {"infer"}


def test_the_box_says_that_patience_ended_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = MlflowTracker(tracking_uri="http://server:5000")
    tracker.run_id = "abc"
    rows = summary(4, tracker=tracker)
    assert rows["title"] == "run my run: epoch 4 of 5, stopped after 3 epochs without a better val/loss"
    assert rows["MLflow"] == "http://server:5000 (run abc)"
    assert "MLflow" not in summary(4)
    assert rows["resume"].endswith("trainer.patience=6")


def test_the_box_names_the_best_by_each_metric() -> None:
    rows = summary(4, best_values={"val/dice": 0.75}, best_epochs={"val/dice": 3})
    assert rows["best dice"] == "epoch 3: val/dice 0.75, run_name=my run@dice"
    assert rows["title"].endswith("stopped after 3 epochs without a better val/loss or val/dice")


def test_commands_start_as_this_one_did() -> None:
    assert _program("test", ["python", "src/train.py", "a=b"]) == "python src/test.py"
    assert _program("infer", ["python", "-u", "/my code/train.py"]) == "python '/my code/infer.py'"
    assert _program("test", ["python", "-m", "polymask", "train"]) == "python -m polymask test"
    assert _program("test", ["python", "/usr/bin/polymask", "train"]) == "polymask test"


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.6, 3600, 360001)] == [
        "0:00:00",
        "0:01:00",
        "1:00:00",
        "100:00:01",
    ]


@pytest.mark.parametrize(("mode", "best"), [("min", "r1"), ("max", "r0")])
def test_the_table_of_a_sweep_begins_with_the_best(mode: str, best: str) -> None:
    def job(number: int, value: float | None, lr: str) -> SweepJob:
        task = SimpleNamespace(mode=mode, monitor="val/x")
        result = SimpleNamespace(task=task, objective=value, run_name=f"r{number}")
        return SweepJob(number=number, overrides=["epochs=3", f"lr={lr}"], result=result)

    jobs = [job(0, 0.5, "1"), job(1, 0.25, "2"), job(2, float("nan"), "3"), job(3, None, "4")]
    jobs.append(SweepJob(number=4, overrides=["epochs=3", "lr='5'"], error="too bad"))
    title, _, header, _, *rows, _ = sweep_table(jobs).splitlines()
    assert title.strip() == "sweep of 5 runs, best first; 1 failed"
    assert header.split() == ["#", "run", "lr", "val/x"]  # epochs is the same everywhere
    order = [row.split()[1] for row in rows]
    assert order[0] == best
    assert order[2:4] == ["r2", "r3"]
    assert rows[-1].split() == ["4", "5", "failed:", "too", "bad"]


def test_a_run_ends_with_its_box_and_a_sweep_with_its_table(
    project: Path, lesion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        f"data.data_dir={lesion_folder}", "data.classes=[MEL,NV,BKL]", "data.image_size=32",
        "data.batch_size=8",
        "data.num_workers=0", "transforms=none", "model.encoder_name=tu-test_resnet",
        "model.encoder_weights=null",
        "trainer.device=cpu", "tracker=none", "epochs=1", "test_after_training=false",
    ]  # fmt: skip
    with pytest.raises(UserError, match="learning_rate"):
        cli.run("train", ["-m", *options, "run_name=20251203_0016,1e5", "optimizer.learning_rate=0.001,-1"])
    printed = capsys.readouterr().out
    table = printed[printed.index("sweep of 4 runs, best first; 2 failed") :]
    assert {path.stem for path in project.glob("models/checkpoints/*.last.pt")} == {
        "20251203_0016_learning_rate=0.001.last",
        "1e5_learning_rate=0.001.last",
    }
    assert table.count("failed: ") == 2
    assert "optimizer.learning_rate" in table
    logs = [path.read_text(encoding="utf-8") for path in project.glob("outputs/multirun/*/*/*/*.log")]
    assert sum("run 1e5_learning_rate=0.001: epoch 1 of 1, done" in log for log in logs) == 1
    assert any("thread" in log for log in logs)
