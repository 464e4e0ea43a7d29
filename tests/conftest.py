from __future__ import annotations

import os

# Before torch starts, also in the processes that tests start: in networks this small a second thread only
# waits, and where another program is busy the two wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lesion_files import write_lesions
from mlflow_store import open_store
from quick_hydra import quicken_hydra

from polymask.utils import paths

quicken_hydra()

WITH_PROCESSES = {
    "test_accumulator.py",
    "test_distributed.py",
    "test_family.py",
    "test_run_claim.py",
    "test_scripts.py",
}
"""Files that start processes by `warm_scripts`: they share the one that has loaded the libraries."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file in one test process, which makes its fixtures once, and `WITH_PROCESSES` in one, too."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "processes" if Path(file).name in WITH_PROCESSES else file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let the collector of garbage leave alone what the libraries and the list of tests are made of.

    These millions of objects stay to the end; looking through them again and again took a tenth of all time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root: whatever a run writes lands below it instead of in the repository."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def lesion_folder(tmp_path: Path) -> Path:
    """The HAM10000 layout: 24 images of 48 x 64 pixels, 8 of each class, of 18 lesions."""
    return write_lesions(tmp_path / "lesions")


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from polymask import cli

    root = tmp_path_factory.mktemp("trained")
    options = [
        "run_name=tiny",
        f"data.data_dir={write_lesions(root / 'lesions')}",
        "data.classes=[MEL,NV,BKL]",
        "data.image_size=[32,48]",
        "data.batch_size=5",
        "data.num_workers=0",
        "data.fractions=[0.4,0.2,0.4]",
        "transforms=none",
        "model.encoder_name=tu-test_resnet",
        "+model.decoder_channels=[32,16,16,8,8]",
        "model.encoder_weights=null",
        "optimizer.learning_rate=1.0e-3",
        "trainer.device=cpu",
        "trainer.precision=fp32",
        "tracker=none",
        "epochs=2",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        cli.run("train", options)
    return root


@pytest.fixture
def trained(_trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project root of one run called `tiny`, trained on `lesions/` and tested; not to be written to."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", _trained_once)
    return _trained_once


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(project: Path, _empty_database: Path) -> Path:
    """The default SQLite file of a project, its tables already made because that takes seconds."""
    path = project / "mlruns" / "mlflow.db"
    path.parent.mkdir()
    shutil.copy(_empty_database, path)
    return path
