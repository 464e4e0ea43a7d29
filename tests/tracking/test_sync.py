"""What MLflow could not take while it was locked is delivered later, once and whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import cli
from polymask.errors import UserError
from polymask.tracking import mlflow_tracker
from polymask.tracking.mlflow_tracker import MlflowTracker
from polymask.utils.locks import try_lock


@pytest.fixture
def checkpoints(project: Path) -> Path:
    folder = project / "models" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("run.pt", "run.last.pt"):
        torch.save(
            {"format": 1, "ema": None, "tracker_run_id": "", "model": {"w": torch.arange(3)}}, folder / name
        )
    return folder


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the database as another program does in a long write."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


class ImpatientCursor(sqlite3.Cursor):
    """MLflow asks SQLite to wait 20 seconds for a lock; here it waits a moment."""

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if "busy_timeout" in statement:
            statement = "PRAGMA busy_timeout = 50;"
        return super().execute(statement, *parameters)


class ImpatientConnection(sqlite3.Connection):
    def cursor(self, factory: Any = ImpatientCursor) -> Any:
        return super().cursor(factory)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a locked database up at once, as is done after seconds otherwise."""
    connect = sqlite3.dbapi2.connect
    monkeypatch.setattr(
        sqlite3.dbapi2,
        "connect",
        lambda *args, **options: connect(
            *args, **options | {"timeout": 0.05, "factory": ImpatientConnection}
        ),
    )
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_MAX_RETRIES", "1")


def record(tracker: MlflowTracker, folder: Path, *, end: bool = True, epochs: int = 3) -> None:
    tracker.keep(folder / "run.outbox.jsonl")
    tracker.start("run", params={"epochs": epochs}, tags={"run_state": "running"}, run_id="")
    for epoch in range(1, epochs + 1):
        tracker.log_metrics({"val/loss": 1 / epoch}, step=epoch)
    tracker.log_artifact(folder / "run.pt", "run")
    if end:
        tracker.set_tags({"run_state": "finished"})
        tracker.finish("FINISHED")


def the_run(client: Any) -> Any:
    (run,) = client.search_runs([client.get_experiment_by_name("polymask").experiment_id])
    return run


def course(client: Any) -> list[tuple[int, float]]:
    points = client.get_metric_history(the_run(client).info.run_id, "val/loss")
    return [(point.step, point.value) for point in points]


WHOLE = [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_a_run_of_a_locked_database_is_delivered_once(
    database: Path, client: Any, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(database):
        record(MlflowTracker(), checkpoints)
        assert caplog.messages[-1].endswith("metrics.csv. polymask sync run delivers them later.")
        with pytest.raises(UserError, match=r"takes no records \(.*locked.*\); 8 records of run wait in"):
            cli.run("sync", ["run"])
    kept = (checkpoints / "run.outbox.jsonl").read_text()
    times = (checkpoints / "run.pt").stat().st_mtime_ns
    assert cli.run("sync", ["run"]).delivered == {"run": 8}
    assert not (checkpoints / "run.outbox.jsonl").exists()
    run = the_run(client)
    assert (run.info.status, run.data.tags["run_state"]) == ("FINISHED", "finished")
    assert run.data.params == {"epochs": "3"}
    assert course(client) == WHOLE
    assert [file.path for file in client.list_artifacts(run.info.run_id, "run")] == ["run/run.pt"]
    # The checkpoints know the run now, so that a later test or resume goes on in it.
    for name in ("run.pt", "run.last.pt"):
        content = torch.load(checkpoints / name, weights_only=True)
        assert content["tracker_run_id"] == run.info.run_id
        assert torch.equal(content["model"]["w"], torch.arange(3))
    assert (checkpoints / "run.pt").stat().st_mtime_ns == times

    assert cli.run("sync", []).delivered == {}
    # Stopped before the file was removed, everything is sent again and nothing is there twice.
    known, *records = kept.splitlines()
    again = json.dumps(json.loads(known) | {"run_id": run.info.run_id, "is_new": True})
    (checkpoints / "run.outbox.jsonl").write_text("\n".join([again, *records]) + "\n")
    assert cli.run("sync", []).delivered == {"run": 8}
    assert course(client) == WHOLE
    assert the_run(client).info.status == "FINISHED"


def test_of_a_killed_process_all_that_was_recorded_arrives(
    database: Path, client: Any, checkpoints: Path
) -> None:
    with locked(database):
        record(MlflowTracker(), checkpoints, end=False)
    with (checkpoints / "run.outbox.jsonl").open("a") as file:
        file.write('{"kind": "metr')  # killed in the middle of a line
    assert cli.run("sync", []).delivered == {"run": 6}
    assert the_run(client).info.status == "KILLED"
    assert course(client) == WHOLE


def test_a_resumed_run_delivers_what_waits_before_its_own(
    database: Path, client: Any, checkpoints: Path
) -> None:
    with locked(database):
        record(MlflowTracker(), checkpoints, end=False, epochs=2)
    after = MlflowTracker()
    after.keep(checkpoints / "run.outbox.jsonl")
    after.start("run", params={"epochs": 3}, tags={}, run_id="")
    after.log_metrics({"val/loss": 1 / 3}, step=3)
    after.finish("FINISHED")
    assert course(client) == WHOLE
    assert the_run(client).info.run_id == after.run_id
    assert not (checkpoints / "run.outbox.jsonl").exists()


def test_a_part_that_was_delivered_is_not_opened_anew(
    database: Path, client: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MlflowTracker()
    tracker.keep(checkpoints / "run.outbox.jsonl")
    tracker.start("run", params={}, tags={}, run_id="")
    tracker.log_metrics({"val/loss": 1.0}, step=1)
    assert not (checkpoints / "run.outbox.jsonl").exists()
    with locked(database):
        tracker.log_metrics({"val/loss": 1 / 2}, step=2)
        tracker.log_metrics({"val/loss": 1 / 3}, step=3)
        tracker.finish("FINISHED")
    monkeypatch.setattr(mlflow_tracker, "_now", lambda: 1)  # the records keep their own times
    assert cli.run("sync", ["run"]).delivered == {"run": 3}
    assert course(client) == WHOLE
    assert the_run(client).info.end_time > 1


def test_a_run_that_goes_on_or_does_not_exist_is_refused(project: Path, checkpoints: Path) -> None:
    with pytest.raises(UserError, match=r"run_name='rum' is no run of .* Did you mean 'run'\?"):
        cli.run("sync", ["rum"])
    (checkpoints / "run.outbox.jsonl").write_text("{}\n{}\n")
    with try_lock(checkpoints / ".run.lock"), pytest.raises(UserError, match="run is still going on"):
        cli.run("sync", ["run"])


def test_records_of_a_stranger_carry_no_file_of_this_machine_to_a_stranger(
    project: Path,
    checkpoints: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "key"
    secret.write_text("secret")
    known = {"uri": "http://127.0.0.1:9", "experiment": "polymask", "run_id": "", "is_new": False}
    artifact = {"kind": "artifact", "path": str(secret), "folder": "", "moment": 0}
    outbox = checkpoints / "run.outbox.jsonl"

    def write(**changed: str) -> None:
        outbox.write_text(f"{json.dumps(known | changed)}\n{json.dumps(artifact)}\n")

    write()
    with pytest.raises(UserError, match=r"at http://127\.0\.0\.1:9, which is not of this project"):
        cli.run("sync", ["run"])
    write(uri=f"sqlite:///{tmp_path_factory.mktemp('other') / 'theirs.db'}")
    with pytest.raises(UserError, match="which is not of this project"):
        cli.run("sync", ["run"])
    write(uri=f"sqlite:///{project}/mlruns/mlflow.db")
    with pytest.raises(UserError, match=f"hold the file {secret}, which is not of this project"):
        cli.run("sync", ["run"])
    assert not (project / "mlruns").exists()
    monkeypatch.setenv("POLYMASK_TRUSTED", str(secret.parent))
    with pytest.raises(UserError, match="takes no records"):  # it is asked now: the file belongs to no run
        cli.run("sync", ["run"])
