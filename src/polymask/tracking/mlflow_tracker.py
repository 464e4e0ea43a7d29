"""MLflow: parameters, metrics, tags and artifacts of a run."""

from __future__ import annotations

import getpass
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from polymask.tracking.outbox import Outbox
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_MAX_PARAM_LENGTH = 6000  # MLflow refuses longer values
_LOCK_SECONDS = 120
_SQLITE = "sqlite:///"
# MLflow's own defaults retry for minutes; an epoch must not wait that long for a server that is down, and
# the outbox tries again anyway.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # what is tracked here may be about patients
}


class MlflowTracker:
    """Records a run in MLflow.

    What cannot be recorded now (server down, database busy) waits in order and is tried again with later
    calls, with its own time stamp; at the end what is still waiting is counted in a warning.

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
        self._is_open = self._is_new = False
        self._reopens = True
        self._outbox = Outbox(
            f"MLflow at {self.uri}",
            session=self._session,
            # Without a run nothing can be recorded, so its opening is never given up.
            is_refused=lambda error: self._is_open and _is_refused(error),
        )

    def start(
        self,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str,
        reopen: bool = True,
    ) -> None:
        """Open a run, or go on with `run_id`; where MLflow does not know that one, open a new run."""
        self._reopens = reopen
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        # Even while MLflow is away the checkpoints must keep the id, or a later resume would lose the run.
        self.run_id = run_id
        begun = _now()
        self._outbox.put(lambda: self._open(run_name, tags, begun))
        self._outbox.put(lambda: self._log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics in one request; NaN is left out, since charts cannot show it."""
        moment = _now()
        finite = {_allowed_name(name): float(value) for name, value in metrics.items() if value == value}

        def send() -> None:
            from mlflow.entities import Metric

            batch = [Metric(name, value, moment, step) for name, value in finite.items()]
            self._client.log_batch(self.run_id, metrics=batch)

        self._outbox.put(send)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder."""

        def send() -> None:
            keep = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            keep(self.run_id, str(path), folder or None)

        self._outbox.put(send)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

        def send() -> None:
            from mlflow.entities import RunTag

            self._client.log_batch(
                self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()]
            )

        self._outbox.put(send)

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Show other runs below this one, wherever they stood before."""
        for run_id in filter(None, run_ids):
            # One record each: a run that is gone must not keep the others from their new place.
            self._outbox.put(partial(self._adopt_one, run_id))

    def finish(self, status: str | None) -> None:
        """Close the run; None leaves the end of a run as it was, unless the run is new."""
        ended = _now()

        def send() -> None:
            if status is not None or self._is_new:
                self._client.set_terminated(self.run_id, status or "FINISHED", ended)

        self._outbox.put(send)
        if self._outbox:  # the last chance, also during the pause between two attempts
            self._outbox.flush()
        if self._outbox:
            log.warning(
                "%d records did not reach MLflow at %s; the metrics are also in metrics.csv.",
                len(self._outbox),
                self.uri,
            )

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Hold the client inside the block, alone with a SQLite file.

        Runs that start together would create the tables of a new file twice, or collide.
        """
        with warnings.catch_warnings():
            # Of MLflow's libraries among themselves; under `python -W error` they would stop the recording.
            warnings.simplefilter("ignore", DeprecationWarning)
            # Before the lock: this import takes seconds, and all others would wait for it.
            from mlflow import MlflowClient

            with _alone(self.uri):
                self._client = self._client or MlflowClient(self.uri)
                yield

    def _open(self, run_name: str, tags: Mapping[str, str], begun: int) -> None:
        if not (self.run_id and self._reopen()):
            own = {"mlflow.source.name": sys.argv[0], "command": " ".join(sys.argv), "mlflow.user": _user()}
            run = self._client.create_run(
                self._experiment_id(), start_time=begun, tags={**own, **tags}, run_name=run_name
            )
            self.run_id, self._is_new = run.info.run_id, True
        self._is_open = True

    def _reopen(self) -> bool:
        try:
            self._client.get_run(self.run_id)
            if self._reopens:
                self._client.update_run(self.run_id, status="RUNNING")
        except Exception as error:
            if not _is_refused(error):
                raise
            log.warning("MLflow at %s has no run %s to go on with; a new one begins.", self.uri, self.run_id)
            return False
        return True

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return experiment.experiment_id
        location = None
        if self.uri.startswith(_SQLITE):  # beside the database, wherever the command was started
            location = (Path(self.uri.removeprefix(_SQLITE)).parent / "artifacts").as_uri()
        return self._client.create_experiment(self.experiment, artifact_location=location)

    def _adopt_one(self, run_id: str) -> None:
        self._client.set_tag(run_id, "mlflow.parentRunId", self.run_id)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        if not self._is_new:  # MLflow refuses to change the parameters of a run
            return
        entries = [
            Param(_allowed_name(name), str(value)[:_MAX_PARAM_LENGTH]) for name, value in params.items()
        ]
        for start in range(0, len(entries), 100):  # MLflow takes a hundred at a time
            self._client.log_batch(self.run_id, params=entries[start : start + 100])


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Take turns on a SQLite file."""
    if not uri.startswith(_SQLITE):
        yield
        return
    file = Path(uri.removeprefix(_SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
        yield


def _is_refused(error: Exception) -> bool:
    """Return whether to send the record again would be in vain."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in (400, 404)
    return isinstance(error, FileNotFoundError)  # an artifact that is gone


def _allowed_name(name: str) -> str:
    """Replace the characters that MLflow refuses in names, such as brackets in the name of a class."""
    return re.sub(r"[^\w./ -]", "_", name)


def _absolute(uri: str) -> str:
    """Anchor a relative SQLite path at the project root, so that it does not depend on the current folder."""
    return f"{_SQLITE}{resolve(uri.removeprefix(_SQLITE))}" if uri.startswith(_SQLITE) else uri


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return "unknown"


def _now() -> int:
    return int(time.time() * 1000)
