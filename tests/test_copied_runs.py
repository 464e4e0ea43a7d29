"""A copied checkpoint goes on as a run of its own and leaves the original as it was."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from lesion_files import write_lesions
from mlflow import MlflowClient
from strangers import run

from polymask.errors import UserError
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths


def fingerprints(root: Path, name: str) -> dict[str, str]:
    """Return the hash of each file of a run."""
    files = [*(root / "models").rglob(f"{name}.*"), *(root / "results" / "test" / name).rglob("*")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def copy(root: Path, *endings: str) -> None:
    folder = root / "models" / "checkpoints"
    for ending in endings:
        shutil.copy(folder / f"orig{ending}", folder / f"fork{ending}")


@pytest.fixture(scope="module")
def _trained_in_mlflow(tmp_path_factory: pytest.TempPathFactory, _empty_database: Path) -> Path:
    root = tmp_path_factory.mktemp("original")
    (root / "mlruns").mkdir()
    shutil.copy(_empty_database, root / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run(
            "train",
            "run_name=orig",
            f"data.data_dir={write_lesions(root / 'lesions')}",
            "data.classes=[MEL,NV,BKL]",
            "task=segmentation",
            "data.image_size=32",
            "data.num_workers=0",
            "data.batch_size=8",
            "transforms=none",
            "model.encoder_name=tu-test_resnet",
            "+model.decoder_channels=[32,16,16,8,8]",
            "model.encoder_weights=null",
            "trainer.device=cpu",
            "epochs=1",
        )
    return root


@pytest.fixture
def original(_trained_in_mlflow: Path, project: Path) -> Path:
    """A project root of one's own with the run `orig`, which is in MLflow, too."""
    return shutil.copytree(_trained_in_mlflow, project, dirs_exist_ok=True)


def test_a_copy_resumes_and_is_tested_as_itself(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(original, "orig")
    assert len(before) > 5
    copy(original, ".last.pt")
    with pytest.raises(UserError, match=r"copy orig\.pt to .*fork\.pt, too"):
        run("train", "resume=true", "run_name=fork", "epochs=2")
    copy(original, ".pt")

    result = run("train", "resume=true", "run_name=fork", "epochs=2")
    assert result.run_name == "fork"
    assert "written by run orig; it is taken as a run of its own, fork" in capsys.readouterr().out
    assert result.state.epoch == 2
    assert fingerprints(original, "orig") == before
    folder = original / "models" / "checkpoints"
    fork, orig = (load_checkpoint(folder / f"{name}.last.pt") for name in ("fork", "orig"))
    assert (fork["run_name"], fork["parent_run"], fork["config"]["run_name"]) == ("fork", "orig", "fork")
    assert fork["tracker_run_id"] not in ("", orig["tracker_run_id"])

    client = MlflowClient(f"sqlite:///{original / 'mlruns' / 'mlflow.db'}")
    tracked = client.get_run(fork["tracker_run_id"])
    assert (tracked.info.run_name, tracked.data.tags["parent_run"]) == ("fork", "orig")
    assert "parent_run" not in client.get_run(orig["tracker_run_id"]).data.tags

    shutil.rmtree(original / "results")
    assert run("test", "run_name=fork", "tracker=none").folder == original / "results" / "test" / "fork"
    found = run("infer", f"run_name={folder / 'fork.pt'}", f"data.data_dir={original / 'lesions' / 'images'}")
    assert found.folder == original / "results" / "inference" / "fork"
    assert not (original / "results" / "test" / "orig").exists()


def test_a_run_that_the_tracker_does_not_know_gets_one_new_run_there(original: Path) -> None:
    client = MlflowClient(f"sqlite:///{original / 'mlruns' / 'mlflow.db'}")

    def tracked() -> list[str]:
        experiment = client.get_experiment_by_name("polymask").experiment_id
        return [found.info.run_name for found in client.search_runs([experiment])]

    copy(original, ".last.pt", ".pt")
    for _ in range(2):
        run("test", "run_name=fork")
    assert sorted(tracked()) == ["fork", "orig"]
    folder = original / "models" / "checkpoints"
    fork, orig = (load_checkpoint(folder / f"{name}.pt") for name in ("fork", "orig"))
    assert (fork["run_name"], fork["parent_run"], fork["config"]["run_name"]) == ("fork", "orig", "fork")
    client.delete_run(orig["tracker_run_id"])
    for _ in range(2):
        run("test", "run_name=orig")
    assert sorted(tracked()) == ["fork", "orig"]
    assert load_checkpoint(folder / "orig.last.pt")["tracker_run_id"] != orig["tracker_run_id"]
