"""The real scripts as processes: train, kill, resume, test, infer; compared with an uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow_store import open_store
from warm_scripts import WarmScript

from polymask import cli

SOURCE = Path(__file__).parents[2] / "src"
OPTIONS = [
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=64",
    "data.batch_size=4",
    "model.encoder_name=tu-test_resnet",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.encoder_weights=null",
    "model.head.dropout=0.3",
    "trainer.device=cpu",
    "trainer.ema_decay=0.9",
    "epochs=4",
]


def command(root: Path, name: str, *overrides: str) -> subprocess.Popen[str]:
    """Start a script in a folder that is not the project's, with the project root in `root`."""
    environment = {**os.environ, "POLYMASK_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, str(SOURCE / f"{name}.py"), *overrides],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str] | WarmScript, *, status: int = 0) -> str:
    """Wait for a script and return what it printed."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == status, printed
    return printed


def kill_after_first_epoch(process: WarmScript, last: Path) -> None:
    """Send SIGKILL somewhere in the second epoch."""
    deadline = time.monotonic() + 240
    while not last.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()


def checkpoint(root: Path, name: str) -> dict[str, Any]:
    return torch.load(root / "models" / "checkpoints" / name, weights_only=True)


def assert_equal_tensors(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


@pytest.fixture
def root(tmp_path: Path, _empty_database: Path) -> Path:
    """The project root of scripts, with a database that has its tables."""
    folder = tmp_path / "scripts"
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(_empty_database, folder / "mlruns" / "mlflow.db")
    return folder


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    root: Path, project: Path, lesion_folder: Path, one_thread: None
) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS]
    killed, whole = root, project / "whole"
    process = WarmScript("train", [*options, "run_name=run", "data.num_workers=2"], killed)
    kill_after_first_epoch(process, killed / "models" / "checkpoints" / "run.last.pt")
    assert 1 <= checkpoint(killed, "run.last.pt")["training"]["epoch"] < 4
    printed = finish(WarmScript("train", ["resume=true", "data.num_workers=0"], killed))
    assert "test/dice_lesion_image" in printed

    from polymask.utils import paths

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", whole)
        result = cli.run("train", [*options, "run_name=run", "data.num_workers=1", "tracker=none"])
    resumed, uninterrupted = checkpoint(killed, "run.last.pt"), checkpoint(whole, "run.last.pt")
    assert_equal_tensors(resumed["model"], uninterrupted["model"])
    assert_equal_tensors(resumed["ema"], uninterrupted["ema"])
    assert resumed["schedule"] == uninterrupted["schedule"]
    without_speed = [
        [{k: v for k, v in row.items() if "second" not in k} for row in content["training"]["history"]]
        for content in (resumed, uninterrupted)
    ]
    assert without_speed[0] == without_speed[1]
    best = [checkpoint(root, "run.pt") for root in (killed, whole)]
    assert_equal_tensors(best[0]["model"], best[1]["model"])

    # One MLflow run, not two, and every epoch in it once or, at the seam, twice with the same value.
    client = open_store(f"sqlite:///{killed / 'mlruns' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("polymask").experiment_id])
    assert len(runs) == 1
    assert runs[0].data.tags["run_state"] == "finished"
    logged = {point.step: point.value for point in client.get_metric_history(runs[0].info.run_id, "val/loss")}
    assert logged == {row["epoch"]: row["val/loss"] for row in resumed["training"]["history"]}

    again_test_and_infer(killed, lesion_folder, result.test_metrics)


def again_test_and_infer(root: Path, images: Path, expected: dict[str, float]) -> None:
    """Test and infer with the resumed run, from a folder that is not the repository."""
    printed = finish(WarmScript("test", ["local_save_dir=elsewhere"], root))
    assert "test/balanced_accuracy" in printed
    written = json.loads((root / "elsewhere" / "run" / "metrics.json").read_text())["metrics"]
    assert written["dice_lesion_image"]["value"] == pytest.approx(expected["dice_lesion_image"], abs=1e-12)
    (images / "images" / "broken.jpg").write_bytes(b"not an image")
    printed = finish(
        WarmScript(
            "infer", [f"data.data_dir={images / 'images'}", "run_name=run", "data.num_workers=0"], root
        ),
        status=2,
    )
    assert "1 of 25 files could not be read, e.g. broken.jpg" in printed
    folder = root / "results" / "inference" / "run"
    assert len((folder / "predictions.csv").read_text().splitlines()) == 25
    assert len(list((folder / "masks").glob("*.png"))) == 24


def test_multirun_gives_each_job_its_own_run(root: Path, lesion_folder: Path) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "debug=fast_dev_run", "test_after_training=false"]
    options.append("data.num_workers=0")
    encoders = "model.encoder_name=tu-test_resnet,tu-test_efficientnet"
    finish(WarmScript("train", ["-m", *options, encoders], root))
    names = sorted(path.name for path in (root / "models" / "checkpoints").glob("*.last.pt"))
    assert [name.split("_2")[0] for name in names] == ["unet_tu-test_efficientnet", "unet_tu-test_resnet"]
    assert len(list((root / "outputs" / "multirun").rglob("metrics.csv"))) == 2


def test_a_sweep_with_one_name_tells_its_runs_apart(project: Path, lesion_folder: Path) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "debug=fast_dev_run", "test_after_training=false"]
    cli.run("train", ["-m", *options, "tracker=none", "run_name=study", "seed=1,2", "data.num_workers=0"])
    names = {path.name for path in (project / "models" / "checkpoints").glob("*.last.pt")}
    assert names == {"study_seed=1.last.pt", "study_seed=2.last.pt"}


@pytest.mark.slow
def test_two_processes_train_one_run(project: Path, lesion_folder: Path) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "epochs=2", "run_name=two", "data.batch_size=2"]
    environment = {**os.environ, "POLYMASK_ROOT": str(project), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(SOURCE / "train.py"), *options],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert checkpoint(project, "two.last.pt")["training"]["epoch"] == 2
    folder = project / "results" / "test" / "two"
    expected = len(list((folder / "masks").glob("*.png")))
    assert expected == json.loads((folder / "metrics.json").read_text())["num_samples"]
    # Tested again by a single process, the numbers are the same.
    before = json.loads((folder / "metrics.json").read_text())
    finish(command(project, "test", "run_name=two"))
    assert json.loads((folder / "metrics.json").read_text()) == before


def test_a_report_never_replaces_other_files(
    project: Path, lesion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = project / "work" / "thesis"
    precious.mkdir(parents=True)
    (precious / "chapter.tex").write_text("years of work")
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "debug=fast_dev_run", "run_name=thesis"]
    cli.run("train", [*options, "test_after_training=false"])
    with pytest.raises(SystemExit) as ended:
        cli.main(["test", "run_name=thesis", "local_save_dir=work", "tracker=none"])
    assert ended.value.code == 2
    assert "holds other files than a report" in capsys.readouterr().err
    assert (precious / "chapter.tex").read_text() == "years of work"


def test_a_diverging_run_names_its_samples_and_is_marked_as_failed(
    project: Path, database: Path, lesion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"data.data_dir={lesion_folder}", *OPTIONS, "run_name=wild", "data.num_workers=0"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *options, "optimizer.learning_rate=1.0e30", "scheduler=none"])
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "the loss is not finite" in message
    assert "ISIC_" in message

    client = open_store(f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("polymask").experiment_id])
    assert (run.info.status, run.data.tags["run_state"]) == ("FAILED", "failed")
    assert {file.path for file in client.list_artifacts(run.info.run_id, "run")} == {
        "run/config.yaml",
        "run/split.csv",
    }
