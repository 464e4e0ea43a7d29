"""MLflow stores of the tests: their reader, and one whose tables are made already."""

from __future__ import annotations

import warnings
from typing import Any


def open_store(uri: str) -> Any:
    """Open a reader of a store; the tables of a new SQLite file are made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of MLflow's own libraries
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        client.search_experiments()  # the first query compiles mappings, which warns as well
    return client
