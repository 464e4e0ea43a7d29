from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _open_client(uri: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of MLflow's own libraries
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        client.search_experiments()  # the first query compiles mappings, which warns as well
    return client


@pytest.fixture(scope="session")
def open_client() -> Callable[[str], Any]:
    """Opens a reader of an MLflow store that is not the tracker's own."""
    return _open_client


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    _open_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(project: Path, _empty_database: Path) -> Path:
    """The default SQLite file of a project, its tables already made because that takes seconds."""
    path = project / "mlruns" / "mlflow.db"
    path.parent.mkdir()
    shutil.copy(_empty_database, path)
    return path


@pytest.fixture
def client(database: Path) -> Any:
    """A reader of `database`."""
    return _open_client(f"sqlite:///{database}")
