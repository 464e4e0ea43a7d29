"""Names of runs: claimed by one process at a time, and what a start that failed or was interrupted leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from warm_scripts import WarmScript

from polymask import cli
from polymask.errors import UserError
from polymask.run_claim import LONGEST_NAME, check_monitor_names, claim_run, run_lock
from polymask.training.checkpoint import CheckpointFolder
from polymask.training.distributed import Processes
from polymask.utils import interruption
from polymask.utils.locks import try_lock

SOURCE = Path(__file__).parents[1] / "src"
OPTIONS = [
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=64",
    "data.batch_size=4",
    "data.num_workers=0",
    "model.encoder_name=tu-test_resnet",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.encoder_weights=null",
    "trainer.device=cpu",
    "tracker=none",
]


def config(**values: Any) -> Any:
    model = {"model": "unet", "encoder_name": "resnet18"}
    return OmegaConf.create({"resume": False, "init_from": None, "run_name": None, "model": model} | values)


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "models" / "checkpoints")


def claim(checkpoints: CheckpointFolder, **values: Any) -> Any:
    return claim_run(config(**values), checkpoints, Processes())


def files(checkpoints: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def run_of(checkpoints: CheckpointFolder, name: str, *endings: str, started: float) -> None:
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    for ending in (".yaml", *endings):
        path = checkpoints.folder / f"{name}{ending}"
        path.touch()
        os.utime(path, (started, started))


@pytest.mark.parametrize("resume", [False, True])
def test_a_name_belongs_to_one_process_at_a_time(checkpoints: CheckpointFolder, resume: bool) -> None:
    if resume:
        run_of(checkpoints, "run", ".last.pt", started=1)
    with claim(checkpoints, run_name="run", resume=resume):
        before = files(checkpoints)
        with pytest.raises(UserError, match="run_name='run' is in use by another process"):
            claim(checkpoints, run_name="run", resume=resume).__enter__()
        assert files(checkpoints) == before
        with claim(checkpoints, run_name="other"):
            pass
    with claim(checkpoints, run_name="run", resume=resume) as name:
        assert name == "run"


def test_default_names_are_unique(checkpoints: CheckpointFolder) -> None:
    with claim(checkpoints) as first, claim(checkpoints) as second:
        assert first != second
        assert first.startswith("unet_resnet18_2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("con.pt", "ends in '.pt'"),
        ("con.last", "ends in '.last'"),
        ("con.yaml", "ends in '.yaml'"),
        ("x" * (LONGEST_NAME + 1), f"has {LONGEST_NAME + 1} bytes; give at most {LONGEST_NAME}"),
        ("ä" * 61, "has 122 bytes"),
        (".hidden", "is no file name"),
    ],
)
def test_names_that_no_later_command_could_use_are_refused(
    checkpoints: CheckpointFolder, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        claim(checkpoints, run_name=name).__enter__()
    assert files(checkpoints) == []


def test_the_longest_name_fits_in_all_files(checkpoints: CheckpointFolder, tmp_path: Path) -> None:
    from polymask.utils.files import report_folder, write_text

    name = "x" * LONGEST_NAME
    with claim(checkpoints, run_name=name):
        write_text(checkpoints.last(name), "")
    with report_folder(tmp_path / f"{name}_vs_{name}"):
        pass


def fail_after_an_epoch(checkpoints: CheckpointFolder) -> None:
    checkpoints.last("run").touch()
    raise UserError("the loss is not finite")


def stop(checkpoints: CheckpointFolder, has_checkpoint: bool) -> None:
    if has_checkpoint:
        checkpoints.last("run").touch()
    os.kill(os.getpid(), signal.SIGINT)


def test_a_failed_start_takes_its_mark_back(checkpoints: CheckpointFolder) -> None:
    with pytest.raises(UserError), claim(checkpoints, run_name="run"):
        raise UserError("task.monitor is unknown")
    assert files(checkpoints) == []
    with pytest.raises(UserError), claim(checkpoints, run_name="run"):
        fail_after_an_epoch(checkpoints)
    assert files(checkpoints) == ["run.last.pt", "run.yaml"]


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_an_interrupted_run_says_whether_it_can_be_resumed(
    checkpoints: CheckpointFolder, has_checkpoint: bool
) -> None:
    run_of(checkpoints, "finished", ".pt", ".last.pt", started=1)
    with interruption.interruptible():
        with pytest.raises(KeyboardInterrupt), claim(checkpoints, run_name="run"):
            stop(checkpoints, has_checkpoint)
        said = interruption.advice()
    if has_checkpoint:
        assert said == "resume=true run_name=run goes on with it"
        with claim(checkpoints, resume=True) as name:
            assert name == "run"
    else:
        assert said == "the first epoch of run had not ended, so it cannot be resumed: start it anew"
        with pytest.raises(UserError, match="newest run 'run' was stopped before its first epoch ended"):
            claim(checkpoints, resume=True).__enter__()
        with pytest.raises(UserError, match="run_name='run' was stopped before its first epoch ended"):
            claim(checkpoints, resume=True, run_name="run").__enter__()
        with claim(checkpoints, run_name="run"):  # anew, under the same name
            pass


def test_resume_goes_on_with_the_run_that_was_started_last(checkpoints: CheckpointFolder) -> None:
    run_of(checkpoints, "long", ".last.pt", started=1)
    run_of(checkpoints, "short", ".last.pt", started=2)
    os.utime(checkpoints.last("long"), (9, 9))  # the other one saved later
    with claim(checkpoints, resume=True) as name:
        assert name == "short"


def test_the_next_start_clears_what_a_killed_write_left(checkpoints: CheckpointFolder) -> None:
    run_of(checkpoints, "run", ".last.pt", started=1)
    mine = [".run.pt.01234567.tmp", ".run.last.pt.89abcdef.tmp", ".run.yaml.01234567.tmp"]
    mine.append(".run@dice.pt.01234567.tmp")
    other = ".run2.pt.01234567.tmp"
    for name in (*mine, other):
        (checkpoints.folder / name).touch()
    with claim(checkpoints, run_name="run", resume=True):
        assert files(checkpoints) == [".run.lock", other, "run.last.pt", "run.yaml"]


def test_a_name_is_taken_as_long_as_a_best_checkpoint_by_any_metric_is_there(
    checkpoints: CheckpointFolder,
) -> None:
    run_of(checkpoints, "run", "@dice.pt", started=1)
    run_of(checkpoints, "run2", ".pt", started=1)
    with pytest.raises(UserError, match=r"run_name='run' is taken in .* delete its files, run@dice\.pt\."):
        claim(checkpoints, run_name="run").__enter__()
    checkpoints.best("run", "val/dice").unlink()
    with claim(checkpoints, run_name="run"):
        pass


def test_a_new_run_sends_no_records_of_a_deleted_one(checkpoints: CheckpointFolder) -> None:
    checkpoints.folder.mkdir(parents=True)
    others = [checkpoints.outbox("run2"), checkpoints.outbox("run2@dice")]
    for path in (checkpoints.outbox("run"), checkpoints.outbox("run@dice"), *others):
        path.touch()
    with claim(checkpoints, run_name="run"):
        assert sorted(checkpoints.folder.glob("*.outbox.jsonl")) == sorted(others)


@pytest.mark.parametrize("name", ["run@dice", "run@", "@dice"])
def test_no_run_is_called_as_a_best_checkpoint_by_a_metric(checkpoints: CheckpointFolder, name: str) -> None:
    with pytest.raises(UserError, match="is no file name"):
        claim(checkpoints, run_name=name).__enter__()


def test_one_lock_holds_all_checkpoints_of_a_run(checkpoints: CheckpointFolder) -> None:
    assert run_lock(checkpoints, "run@dice") == run_lock(checkpoints, "run")


@pytest.mark.parametrize(
    ("metric", "fits"),
    [("val/dice", True), ("val/" + "x" * 19, True), ("val/" + "x" * 20, False), ("val/a/b", False)],
)
def test_checkpoints_by_metrics_need_names_of_files(metric: str, fits: bool) -> None:
    name = "x" * (LONGEST_NAME - 20)
    if fits:
        check_monitor_names(name, [metric])
        return
    with pytest.raises(UserError, match=rf"^task\.monitors=\[{metric}\] would write {name}@"):
        check_monitor_names(name, ["val/dice", metric])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_places_that_cannot_be_written_are_told_before_anything_is_done(
    project: Path, lesion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "run_name=run"]
    foreign = project / "results" / "test" / "run" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("years of work")
    assert "holds other files than a report" in fails(capsys, "train", *options)
    assert "holds other" not in fails(capsys, "train", *options, "test_after_training=false", "seed=x")
    foreign.unlink()
    foreign.parent.rmdir()
    foreign.parent.write_text("a file")
    assert "is a file, where a report would be written" in fails(capsys, "train", *options)
    foreign.parent.unlink()
    assert not list((project / "models" / "checkpoints").iterdir())
    (project / "models" / "checkpoints").rmdir()
    (project / "models" / "checkpoints").write_text("a file")
    assert "models/checkpoints is a file" in fails(capsys, "train", *options)
    assert not list((project / "outputs").iterdir())


def test_a_mistake_leaves_neither_mark_nor_folder(
    project: Path, lesion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "run_name=run", "task.monitor=val/los"]
    assert "Did you mean 'val/loss'?" in fails(capsys, "train", *options)
    assert not list((project / "models" / "checkpoints").iterdir())
    assert not list((project / "outputs").iterdir())


def start(root: Path, *overrides: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "POLYMASK_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SOURCE / "train.py"), *overrides],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_of_two_processes_with_one_name_the_second_ends_in_one_line(
    project: Path, lesion_folder: Path
) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "run_name=run", "debug=fast_dev_run"]
    both = [WarmScript("train", [*options, "test_after_training=false"], project) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) == [0, 2], printed
    refused = printed[statuses.index(2)]
    assert refused.startswith("error: run_name='run' is in use by another process")
    assert refused.count("\n") == 1
    names = {path.name for path in (project / "models" / "checkpoints").iterdir()}
    assert names == {"run.pt", "run.last.pt", "run.yaml"}
    assert len(list((project / "outputs").rglob("run.log"))) == 1


def interrupt(root: Path, images: Path, number: int, seconds: float) -> None:
    """Send a signal after the first checkpoint and `seconds`; every such run ends in the same way."""
    root.mkdir()
    last = root / "models" / "checkpoints" / "run.last.pt"
    options = [f"data.data_dir={images}", *OPTIONS, "run_name=run", "epochs=500"]
    process = WarmScript("train", options, root)
    deadline = time.monotonic() + 240
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(number)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, printed
    assert printed.splitlines()[-1] == "interrupted; resume=true run_name=run goes on with it"
    assert "Traceback" not in printed
    assert "run run was interrupted" in printed
    assert {path.name for path in last.parent.iterdir()} == {"run.pt", "run.last.pt", "run.yaml"}


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGTERM, 0.05), (signal.SIGINT, 0.4)])
def test_a_signal_ends_a_run_as_interrupted(
    tmp_path: Path, lesion_folder: Path, number: int, seconds: float
) -> None:
    interrupt(tmp_path / "run", lesion_folder, number, seconds)


@pytest.mark.slow
def test_a_signal_ends_a_run_as_interrupted_at_any_moment(tmp_path: Path, lesion_folder: Path) -> None:
    for moment in range(8):
        number = (signal.SIGTERM, signal.SIGINT)[moment % 2]
        interrupt(tmp_path / str(moment), lesion_folder, number, 0.13 * moment)


def test_a_signal_during_the_start_ends_with_its_status(tmp_path: Path, lesion_folder: Path) -> None:
    process = start(tmp_path, f"data.data_dir={lesion_folder}", *OPTIONS, "run_name=run")
    while not list(tmp_path.glob("outputs/*/*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)  # in the middle of the imports
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 143, printed
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("interrupted; ")


def test_a_run_in_its_first_epoch_is_in_use_rather_than_stopped(project: Path) -> None:
    folder = CheckpointFolder(project / "models" / "checkpoints")
    folder.folder.mkdir(parents=True)
    folder.marker("early").touch()
    for given in ([], ["run_name=early"]):
        with pytest.raises(UserError, match="was stopped before its first epoch ended"):
            cli.run("train", ["resume=true", *given])
        with try_lock(run_lock(folder, "early")), pytest.raises(UserError, match="'early' is in use"):
            cli.run("train", ["resume=true", *given])
