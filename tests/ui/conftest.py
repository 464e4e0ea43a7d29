"""Two demo runs, and the MLflow UI that shows them."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_page import Page

TRAIN = Path(__file__).parents[2] / "src" / "train.py"
LEARNING_RATES = {"demo_a": "1.0e-3", "demo_b": "3.0e-4"}
OPTIONS = ["experiment=demo", "data.reader.num_images=140", "data.batch_size=8", "epochs=8"]
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of two runs that differ in their learning rate."""
    root = tmp_path_factory.mktemp("demo_runs")
    environment = {**os.environ, **QUIET, "POLYMASK_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    for name, learning_rate in LEARNING_RATES.items():
        command = [sys.executable, str(TRAIN), *OPTIONS, f"run_name={name}"]
        command.append(f"optimizer.learning_rate={learning_rate}")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
    return f"sqlite:///{root / 'mlruns' / 'mlflow.db'}"


@pytest.fixture(scope="session")
def runs(store: str) -> list[Any]:
    """Both MLflow runs, demo_a first, read without the UI."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of MLflow's own libraries
        from mlflow import MlflowClient

        client = MlflowClient(store)
        experiment = client.get_experiment_by_name("polymask").experiment_id
        found = sorted(client.search_runs([experiment]), key=lambda run: run.info.run_name)
    assert [run.info.run_name for run in found] == list(LEARNING_RATES)
    return found


@pytest.fixture(scope="session")
def address(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `mlflow ui` answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = tmp_path_factory.mktemp("server") / "server.log"
    with path.open("w") as log:
        command = [sys.executable, "-m", "mlflow", "ui", *options]
        server = subprocess.Popen(command, env={**os.environ, **QUIET}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 180
            while not _answers(port):
                assert server.poll() is None, path.read_text()
                assert time.monotonic() < deadline, path.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=60)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="session")
def _window(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(address, tmp_path_factory.mktemp("chromium"))
    try:
        page.open("")
        # The UI starts with its pages for language models and with an assistant that takes a quarter of them.
        page.click("//*[text()='Model training']")
        page.click("//button[contains(@data-component-id, 'assistant') and @aria-label='Close']")
        yield page
    finally:
        page.driver.quit()


@pytest.fixture
def page(_window: Page) -> Iterator[Page]:
    """The browser window; at the end of a test its console must hold no error."""
    yield _window
    assert _window.errors() == []
