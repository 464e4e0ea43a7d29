from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polymask.tracking.mlflow_tracker import MlflowTracker


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")  # the tracker sets them where they are absent: both is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def record_a_run(tracker: MlflowTracker, epochs: int = 5) -> float:
    """Record as a training does; return the seconds that it took."""
    begun = time.monotonic()
    tracker.start("run", params={"epochs": epochs}, tags={"device": "cpu"}, run_id="")
    for epoch in range(1, epochs + 1):
        tracker.log_metrics({"loss": 1 / epoch}, step=epoch)
    return time.monotonic() - begun


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_unreachable_server_costs_one_warning_and_little_time(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(tracking_uri="http://127.0.0.1:9")
    assert record_a_run(tracker) < 20
    (text,) = warnings_of(caplog)
    assert text.startswith("MLflow at http://127.0.0.1:9 takes no records now (")
    assert "Connection refused" in text
    assert tracker.run_id == ""
    tracker.finish("FINISHED")
    assert warnings_of(caplog)[1:] == [
        "8 records did not reach MLflow at http://127.0.0.1:9; the metrics are also in metrics.csv."
    ]


def test_a_server_that_never_answers_holds_up_one_record_only(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = MlflowTracker(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        seconds = record_a_run(tracker, epochs=50)
    assert seconds < 10  # not 50 times the second after which a request is given up


def test_the_id_of_a_resumed_run_is_kept_while_the_server_is_away(project: Path) -> None:
    tracker = MlflowTracker(tracking_uri="http://127.0.0.1:9")
    tracker.start("run", params={}, tags={}, run_id="abc")
    assert tracker.run_id == "abc"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
    options = ["--backend-store-uri", store, "--artifacts-destination", str(folder / "served")]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"{address}/health", server, folder / "server.log")
            yield address
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def test_what_waited_reaches_a_server_that_comes_up(
    project: Path,
    database: Path,
    open_client: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    (project / "config.yaml").write_text("epochs: 2\n")
    tracker = MlflowTracker()
    record_a_run(tracker, epochs=2)
    tracker.log_artifact(project / "config.yaml", "run")
    away_until = time.time() * 1000
    with mlflow_server(project, port) as address:
        tracker.finish("FINISHED")
        client = open_client(address)
        run = client.get_run(tracker.run_id)
        assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
        assert run.data.params == {"epochs": "2"}
        losses = client.get_metric_history(tracker.run_id, "loss")
        assert [(metric.step, metric.value) for metric in losses] == [(1, 1.0), (2, 0.5)]
        assert all(metric.timestamp <= away_until for metric in losses)
        assert [item.path for item in client.list_artifacts(tracker.run_id, "run")] == ["run/config.yaml"]
