from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "src"
NUM_PROCESSES = 12

# Forked from one process that has MLflow loaded already, so that all twelve meet at the database at once;
# with warnings as errors, since a tracker that trips over one records nothing.
SCRIPT = f"""
import os, sys
from mlflow import MlflowClient
from polymask.tracking.mlflow_tracker import MlflowTracker

def record(number):
    tracker = MlflowTracker()
    tracker.start(f"run_{{number}}", params={{"number": number}}, tags={{}}, run_id="")
    for step in range(1, 6):
        tracker.log_metrics({{"loss": number + 1 / step, "dice": step / 5}}, step=step)
    tracker.finish("FINISHED")

read, write = os.pipe()
children = []
for number in range({NUM_PROCESSES}):
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # returns when the parent closes its end: the starting gun
        record(number)
        os._exit(0)
    children.append(child)
os.close(write)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


def test_twelve_processes_at_once_on_a_fresh_database(
    tmp_path: Path, open_client: Callable[[str], Any]
) -> None:
    environment = {**os.environ, "POLYMASK_ROOT": str(tmp_path), "PYTHONPATH": str(SOURCE)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", SCRIPT]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "takes no records" not in done.stderr

    client = open_client(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    experiments = client.search_experiments()
    assert sorted(experiment.name for experiment in experiments) == ["Default", "polymask"]
    runs = client.search_runs([experiment.experiment_id for experiment in experiments])
    assert sorted(run.info.run_name for run in runs) == sorted(f"run_{n}" for n in range(NUM_PROCESSES))
    for run in runs:
        assert_complete(client, run)


def assert_complete(client: Any, run: Any) -> None:
    number = int(run.data.params["number"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"run_{number}"
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(s, number + 1 / s) for s in range(1, 6)]
    assert len(client.get_metric_history(run.info.run_id, "dice")) == 5
