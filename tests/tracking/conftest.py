from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_store import open_store


@pytest.fixture(scope="session")
def open_client() -> Callable[[str], Any]:
    """Opens a reader of an MLflow store that is not the tracker's own."""
    return open_store


@pytest.fixture
def client(database: Path) -> Any:
    """A reader of `database`."""
    return open_store(f"sqlite:///{database}")
