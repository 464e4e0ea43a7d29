"""MLflow: parameters, metrics, tags and artifacts of a run."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_MAX_PARAM_LENGTH = 6000  # MLflow refuses longer values
_LOCK_SECONDS = 120
_SQLITE = "sqlite:///"
# MLflow's own defaults retry for minutes; an epoch must not wait that long for a server that is down.
_HTTP_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class MlflowTracker:
    """Records a run in MLflow.

    What cannot be recorded now (server down, database busy) waits in order and is tried again with the next
    call, with its own time stamp; at the end what is still waiting is counted in a warning.

    Args:
        tracking_uri: Where to, when `MLFLOW_TRACKING_URI` is not set; relative SQLite paths are meant from
            the project root.
        experiment: Name of the MLflow experiment.
    """

    def __init__(
        self, *, tracking_uri: str = f"{_SQLITE}mlruns/mlflow.db", experiment: str = "polymask"
    ) -> None:
        self.uri = _absolute(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
        self.experiment = experiment
        self.run_id = ""
        self._client: Any = None
        self._waiting: deque[Callable[[], Any]] = deque()
        self._reachable = True

    def start(
        self, run_name: str, *, params: Mapping[str, Any], tags: Mapping[str, str], run_id: str
    ) -> None:
        """Open a run, or go on with `run_id`."""
        for name, value in _HTTP_LIMITS.items():
            os.environ.setdefault(name, value)
        begun = _now()
        self._do(lambda: self._open(run_name, tags, run_id, begun))
        if not run_id:
            self._do(lambda: self._log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics in one request; NaN is left out, since charts cannot show it."""
        moment = _now()
        finite = {name: float(value) for name, value in metrics.items() if value == value}

        def send() -> None:
            from mlflow.entities import Metric

            batch = [Metric(name, value, moment, step) for name, value in finite.items()]
            self._client.log_batch(self.run_id, metrics=batch)

        self._do(send)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder."""
        if path.is_dir():
            self._do(lambda: self._client.log_artifacts(self.run_id, str(path), folder or None))
        else:
            self._do(lambda: self._client.log_artifact(self.run_id, str(path), folder or None))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

        def send() -> None:
            from mlflow.entities import RunTag

            self._client.log_batch(
                self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()]
            )

        self._do(send)

    def finish(self, status: str) -> None:
        """Close the run."""
        self._do(lambda: self._client.set_terminated(self.run_id, status))
        if self._waiting:
            log.warning(
                "%d records did not reach MLflow at %s; the metrics are also in metrics.csv.",
                len(self._waiting),
                self.uri,
            )

    def _do(self, action: Callable[[], Any]) -> None:
        """Run what waits and then `action`, in order, up to the first that fails."""
        self._waiting.append(action)
        try:
            with self._locked():
                while self._waiting:
                    self._waiting[0]()
                    self._waiting.popleft()
            self._reachable = True
        except Exception as error:
            if self._reachable:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                log.warning(
                    "MLflow at %s does not answer (%s); training goes on without it.", self.uri, reason
                )
            self._reachable = False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Take turns on a SQLite file: runs that start together would create its tables twice or collide."""
        if not self.uri.startswith(_SQLITE):
            yield
            return
        file = Path(self.uri.removeprefix(_SQLITE))
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
            yield

    def _open(self, run_name: str, tags: Mapping[str, str], run_id: str, begun: int) -> None:
        from mlflow import MlflowClient

        self._client = self._client or MlflowClient(self.uri)
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        run = self._client.create_run(
            self._experiment_id(), start_time=begun, tags=dict(tags), run_name=run_name
        )
        self.run_id = run.info.run_id

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return experiment.experiment_id
        location = None
        if self.uri.startswith(_SQLITE):  # beside the database, wherever the command was started
            location = (Path(self.uri.removeprefix(_SQLITE)).parent / "artifacts").as_uri()
        return self._client.create_experiment(self.experiment, artifact_location=location)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, str(value)[:_MAX_PARAM_LENGTH]) for name, value in params.items()]
        for start in range(0, len(entries), 100):  # MLflow takes a hundred at a time
            self._client.log_batch(self.run_id, params=entries[start : start + 100])


def _absolute(uri: str) -> str:
    """Anchor a relative SQLite path at the project root, so that it does not depend on the current folder."""
    return f"{_SQLITE}{resolve(uri.removeprefix(_SQLITE))}" if uri.startswith(_SQLITE) else uri


def _now() -> int:
    return int(time.time() * 1000)
