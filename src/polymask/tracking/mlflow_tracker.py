"""MLflow: parameters, metrics, tags and artifacts of a run."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import posixpath
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from polymask.tracking.base import step_metrics
from polymask.tracking.journal import Journal, Record
from polymask.tracking.outbox import Outbox
from polymask.utils.interruption import uninterrupted
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_MAX_PARAM_LENGTH = 6000  # MLflow refuses longer values
_MAX_TAG_LENGTH = 5000
_MAX_METRICS = 1000  # of one request
_POINTS_PER_RECORD = 100
_MAX_NAME_LENGTH = 240  # 250, with room for a hash
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
    calls, with its own time stamp; what still waits at the end is counted in a warning and, after `keep`,
    stays in a file, from which `polymask sync` or the next start of the run delivers it. Sending a record
    again changes nothing, for MLflow keeps a value once per key, step and time.

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
        self.run_name = ""
        self._client: Any = None
        self._is_open = self._is_new = False
        self._journal: Journal | None = None
        self._outbox = Outbox(
            f"MLflow at {self.uri}",
            session=self._session,
            # Without a run nothing can be recorded, so its opening is never given up.
            is_refused=lambda error: self._is_open and _is_refused(error),
            send=self._send,
            on_wait=self._keep_waiting,
            on_put=lambda record: self._journal.append(record) if self._journal is not None else None,
        )
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)

    def keep(self, path: Path) -> None:
        """Keep in a file what cannot be delivered, and deliver what an earlier process left there."""
        self._journal = Journal(path)
        known, records = self._journal.read()
        self.run_id, self._is_new = known.get("run_id", ""), known.get("is_new", False)
        self._is_open = bool(self.run_id)
        self._outbox.restore(records)

    def deliver(self) -> tuple[int, str]:
        """Send what waits, and nothing else; return how many records still wait, and why."""
        waiting = self._outbox.waiting()
        if waiting and waiting[-1]["kind"] not in ("finish", "abandon"):
            # Its process was killed. When, nobody knows better than its last record.
            self._outbox.append(_record("abandon", moment=waiting[-1]["moment"]))
        self._outbox.flush()
        return len(self._outbox), self._outbox.trouble

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
        # Even while MLflow is away the checkpoints must keep the id, or a later resume would lose the run.
        self.run_id, self.run_name = run_id or self.run_id, run_name
        own = {
            "mlflow.source.name": sys.argv[0],
            "mlflow.user": _user(),
            "command": " ".join(sys.argv)[:_MAX_TAG_LENGTH],
        }
        tags = {name: str(value) for name, value in {**own, **tags}.items()}
        self._put("open", run_name=run_name, run_id=run_id, tags=tags, reopen=reopen)
        self._put("params", params={name: str(value) for name, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics in one request; NaN is left out, since charts cannot show it."""
        finite = {allowed_name(name): float(value) for name, value in metrics.items() if value == value}
        self._put("metrics", metrics=finite, step=step)

    def log_steps(self, points: Sequence[Mapping[str, float]]) -> None:
        """Record points of the step log; with their own times, so that MLflow knows those it has."""
        for start in range(0, len(points), _POINTS_PER_RECORD):
            entries = [
                [allowed_name(name), float(value), round(1000 * point["time"]), int(point["step"])]
                for point in points[start : start + _POINTS_PER_RECORD]
                for name, value in step_metrics(point).items()
            ]
            self._put("steps", entries=entries)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder."""
        self._put("artifact", path=str(path), folder=folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        self._put("tags", tags={name: str(value) for name, value in tags.items()})

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Show other runs below this one, wherever they stood before."""
        for run_id in filter(None, run_ids):
            # One record each: a run that is gone must not keep the others from their new place.
            self._put("adopt", child=run_id)

    def finish(self, status: str | None) -> None:
        """Close the run; None leaves the end of a run as it was, unless the run is new."""
        self._put("finish", status=status)
        if self._outbox:  # the last chance, also during the pause between two attempts
            self._outbox.flush()
        if self._outbox:
            log.warning(
                "%d records did not reach MLflow at %s; the metrics are also in metrics.csv.%s",
                len(self._outbox),
                self.uri,
                f" polymask sync {self.run_name} delivers them later." if self._journal is not None else "",
            )

    def places(self) -> dict[str, str]:
        """Return the server with the run, or the command that shows the file."""
        if self.uri.startswith(("http:", "https:")):
            return {"MLflow": f"{self.uri} (run {self.run_id})"}
        return {
            "MLflow": f"MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri {shlex.quote(self.uri)}"
        }

    def _put(self, kind: str, **content: Any) -> None:
        self._outbox.put(_record(kind, moment=_now(), **content))

    def _keep_waiting(self, records: list[Record]) -> None:
        if self._journal is not None:
            known = {"uri": self.uri, "experiment": self.experiment}
            self._journal.replace(known | {"run_id": self.run_id, "is_new": self._is_new}, records)

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Hold the client inside the block, alone with a SQLite file.

        Runs that start together would create the tables of a new file twice, or collide.
        """
        with warnings.catch_warnings():
            # Of MLflow's libraries among themselves; under `python -W error` they would stop the recording.
            warnings.simplefilter("ignore", DeprecationWarning)
            # Before the lock: this import takes seconds, and all others would wait for it. Torn, it could not
            # be repeated, and the end of the run would not be recorded.
            with uninterrupted():
                from mlflow import MlflowClient

            with _alone(self.uri):
                self._client = self._client or MlflowClient(self.uri)
                yield

    def _send(self, record: Record) -> None:
        content = dict(record)
        _SENDERS[content.pop("kind")](self, **content)

    def _open(
        self, *, run_name: str, run_id: str, tags: Mapping[str, str], reopen: bool, moment: int
    ) -> None:
        # The id that the record came with, or that of the run which an earlier record opened.
        self.run_id = self.run_id or run_id
        if not (self.run_id and self._reopen(reopen)):
            run = self._client.create_run(
                self._experiment_id(), start_time=moment, tags=tags, run_name=run_name
            )
            self.run_id, self._is_new = run.info.run_id, True
        self._is_open = True

    def _reopen(self, reopen: bool) -> bool:
        """Return whether the run is there to go on with; `reopen` marks it as running."""
        try:
            run = self._client.get_run(self.run_id)
            is_there = run.info.lifecycle_stage == "active"  # deleted runs are found, but take nothing
            if is_there and reopen:
                self._client.update_run(self.run_id, status="RUNNING")
        except Exception as error:
            if not _is_refused(error):
                raise
            is_there = False
        if not is_there:
            log.warning("MLflow at %s has no run %s to go on with; a new one begins.", self.uri, self.run_id)
        return is_there

    def _send_params(self, *, params: Mapping[str, str], moment: int) -> None:
        from mlflow.entities import Param

        if not self._is_new:  # MLflow refuses to change the parameters of a run
            return
        entries = [Param(allowed_name(name), value[:_MAX_PARAM_LENGTH]) for name, value in params.items()]
        for start in range(0, len(entries), 100):  # MLflow takes a hundred at a time
            self._client.log_batch(self.run_id, params=entries[start : start + 100])

    def _send_metrics(self, *, metrics: Mapping[str, float], step: int, moment: int) -> None:
        from mlflow.entities import Metric

        batch = [Metric(name, value, moment, step) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=batch)

    def _send_steps(self, *, entries: Sequence[tuple[str, float, int, int]], moment: int) -> None:
        from mlflow.entities import Metric

        batch = [Metric(*entry) for entry in entries]
        for start in range(0, len(batch), _MAX_METRICS):
            self._client.log_batch(self.run_id, metrics=batch[start : start + _MAX_METRICS])

    def _send_artifact(self, *, path: str, folder: str, moment: int) -> None:
        keep = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        keep(self.run_id, path, folder or None)

    def _send_tags(self, *, tags: Mapping[str, str], moment: int) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _send_adoption(self, *, child: str, moment: int) -> None:
        self._client.set_tag(child, "mlflow.parentRunId", self.run_id)

    def _send_abandonment(self, *, moment: int) -> None:
        if self._client.get_run(self.run_id).info.status == "RUNNING":
            self._client.set_tag(self.run_id, "run_state", "interrupted")
            self._client.set_terminated(self.run_id, "KILLED", moment)

    def _send_end(self, *, status: str | None, moment: int) -> None:
        if status is not None or self._is_new:
            self._client.set_terminated(self.run_id, status or "FINISHED", moment)

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return experiment.experiment_id
        location = None
        if self.uri.startswith(_SQLITE):  # beside the database, wherever the command was started
            location = (Path(self.uri.removeprefix(_SQLITE)).parent / "artifacts").as_uri()
        return self._client.create_experiment(self.experiment, artifact_location=location)


_SENDERS: dict[str, Callable[..., None]] = {
    "open": MlflowTracker._open,
    "params": MlflowTracker._send_params,
    "metrics": MlflowTracker._send_metrics,
    "steps": MlflowTracker._send_steps,
    "artifact": MlflowTracker._send_artifact,
    "tags": MlflowTracker._send_tags,
    "adopt": MlflowTracker._send_adoption,
    "finish": MlflowTracker._send_end,
    "abandon": MlflowTracker._send_abandonment,
}
"""What sends a record, by its kind."""


def _record(kind: str, **content: Any) -> Record:
    return {"kind": kind, **content}


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


def allowed_name(name: str) -> str:
    """Return a name that MLflow takes; distinct names, such as `Film (blue)` and `Film [blue]`, stay so.

    A name that has to change, for its characters, its length or because it is no plain path, gets six digits
    of its hash at the end.
    """
    allowed = re.sub(r"[^\w./ -]", "_", name)[:_MAX_NAME_LENGTH]
    if posixpath.normpath(allowed) != allowed or allowed.startswith((".", "/")):
        allowed = re.sub(r"^\.+|/", "_", allowed)
    if allowed == name:
        return name
    return f"{allowed}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


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
