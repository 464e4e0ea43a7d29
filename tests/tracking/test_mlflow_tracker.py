from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytest

from polymask.tracking.mlflow_tracker import MlflowTracker, allowed_name


def start(tracker: MlflowTracker, name: str = "first", run_id: str = "", **params: Any) -> None:
    tracker.start(name, params=params, tags={"device": "cpu"}, run_id=run_id)


def only_run(client: Any, experiment: str = "polymask") -> Any:
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_params_metrics_tags_and_artifacts_arrive(
    project: Path, client: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (project / "config.yaml").write_text("epochs: 2\n")
    (project / "tables" / "deep").mkdir(parents=True)
    (project / "tables" / "deep" / "a.csv").write_text("x\n1\n")

    tracker = MlflowTracker()
    start(tracker, **{"model.encoder_name": "resnet18", "long": "x" * 9000, "empty": None})
    tracker.log_metrics({"train/loss": 2.5, "val/loss": math.nan}, step=1)
    tracker.log_metrics({"train/loss": 1.5, "val/loss": 3.0}, step=2)
    tracker.set_tags({"run_state": "finished"})
    tracker.log_artifact(project / "config.yaml", "run")
    tracker.log_artifact(project / "tables", "test/tables")
    tracker.finish("FINISHED")

    run = only_run(client)
    assert run.info.run_id == tracker.run_id
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"model.encoder_name": "resnet18", "long": "x" * 6000, "empty": "None"}
    assert run.data.tags.items() >= {"device": "cpu", "run_state": "finished"}.items()
    assert history(client, tracker.run_id, "train/loss") == [(1, 2.5), (2, 1.5)]
    assert history(client, tracker.run_id, "val/loss") == [(2, 3.0)]
    artifacts = project / "mlruns" / "artifacts" / tracker.run_id / "artifacts"
    assert (artifacts / "run" / "config.yaml").read_text() == "epochs: 2\n"
    assert (artifacts / "test" / "tables" / "deep" / "a.csv").read_text() == "x\n1\n"
    assert not list(elsewhere.iterdir())


def test_points_of_steps_have_steps_and_times_of_their_own_and_are_never_doubled(client: Any) -> None:
    tracker = MlflowTracker()
    start(tracker)
    points = [
        {"step": 10 * n, "epoch": 1, "time": 1e9 + n, "step/train/loss": 1 / n, "step/learning_rate": 0.5}
        for n in range(1, 251)
    ]
    points[1]["step/train/part"] = math.nan
    tracker.log_steps(points)
    again = MlflowTracker()
    start(again, run_id=tracker.run_id)
    again.log_steps(points[-3:])
    again.log_steps([])
    found = client.get_metric_history(tracker.run_id, "step/train/loss")
    assert [(one.step, one.value, one.timestamp) for one in found] == [
        (10 * n, 1 / n, 1000 * (10**9 + n)) for n in range(1, 251)
    ]
    assert set(client.get_run(tracker.run_id).data.metrics) == {"step/train/loss", "step/learning_rate"}


def test_a_resumed_run_goes_on_in_the_same_run(client: Any) -> None:
    before = MlflowTracker()
    start(before, epochs=5)
    before.log_metrics({"loss": 2.0}, step=1)
    before.finish("KILLED")
    assert only_run(client).info.status == "KILLED"

    after = MlflowTracker()
    start(after, run_id=before.run_id, epochs=9)
    assert only_run(client).info.status == "RUNNING"
    after.log_metrics({"loss": 1.0}, step=2)
    after.finish("FINISHED")

    run = only_run(client)
    assert after.run_id == before.run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "5"}
    assert history(client, run.info.run_id, "loss") == [(1, 2.0), (2, 1.0)]


def test_where_the_run_to_resume_is_gone_a_new_one_begins(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker()
    start(tracker, run_id="0123456789abcdef0123456789abcdef", epochs=9)
    tracker.log_metrics({"loss": 1.0}, step=2)
    tracker.finish("FINISHED")
    run = only_run(client)
    assert run.data.params == {"epochs": "9"}
    assert history(client, run.info.run_id, "loss") == [(2, 1.0)]
    assert "has no run 0123456789abcdef0123456789abcdef" in caplog.text


def test_a_record_that_cannot_be_taken_does_not_hold_up_the_others(
    project: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker()
    start(tracker)
    tracker.log_artifact(project / "gone.pt", "run")
    tracker.log_metrics({"dice_naevus (common)_pooled": 0.5}, step=1)
    tracker.finish("FINISHED")
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {allowed_name("dice_naevus (common)_pooled"): 0.5}
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "gone.pt" in warning


def test_relative_sqlite_paths_are_meant_from_the_project_root(project: Path, database: Path) -> None:
    assert MlflowTracker().uri == f"sqlite:///{database}"
    assert MlflowTracker(tracking_uri="sqlite:///x/y.db").uri == f"sqlite:///{project / 'x' / 'y.db'}"
    assert MlflowTracker(tracking_uri="sqlite:////var/y.db").uri == "sqlite:////var/y.db"


def test_the_environment_variable_wins(
    project: Path, database: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
    tracker = MlflowTracker(tracking_uri="sqlite:///other/mlflow.db", experiment="theirs")
    start(tracker)
    tracker.finish("FINISHED")
    assert only_run(client, "theirs").info.run_id == tracker.run_id
    assert not (project / "other").exists()


def test_a_damaged_database_stops_nothing(
    project: Path, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database.write_bytes(b"this is no database" * 100)
    tracker = MlflowTracker()
    start(tracker)
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.finish("FINISHED")
    texts = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(texts) == 2
    assert "takes no records now" in texts[0]
    assert "4 records did not reach MLflow" in texts[1]


def test_records_keep_the_time_at_which_they_were_made(client: Any) -> None:
    tracker = MlflowTracker()
    begun = time.time() * 1000
    start(tracker)
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.finish("FINISHED")
    run = only_run(client)
    (metric,) = client.get_metric_history(run.info.run_id, "loss")
    assert begun - 1 <= run.info.start_time <= metric.timestamp <= run.info.end_time <= time.time() * 1000


def test_a_test_of_a_killed_run_leaves_it_killed(project: Path) -> None:
    from mlflow import MlflowClient

    before = MlflowTracker()
    start(before)
    before.finish("KILLED")
    client = MlflowClient(before.uri)
    ended = client.get_run(before.run_id).info.end_time
    tester = MlflowTracker()
    tester.start("first", params={}, tags={}, run_id=before.run_id, reopen=False)
    tester.log_metrics({"test/loss": 0.5}, step=0)
    tester.finish(None)
    run = client.get_run(before.run_id)
    assert (run.info.status, run.info.end_time) == ("KILLED", ended)
    assert run.data.metrics == {"test/loss": 0.5}


@pytest.mark.parametrize("reopen", [True, False])
def test_a_run_that_was_deleted_in_the_tracker_is_followed_by_a_new_one(client: Any, reopen: bool) -> None:
    before = MlflowTracker()
    start(before)
    before.finish("FINISHED")
    client.delete_run(before.run_id)
    after = MlflowTracker()
    after.start("first", params={"epochs": 3}, tags={}, run_id=before.run_id, reopen=reopen)
    after.log_metrics({"test/loss": 0.5}, step=0)
    after.finish("FINISHED" if reopen else None)
    run = only_run(client)
    assert run.info.run_id == after.run_id != before.run_id
    assert (run.info.status, run.data.metrics, run.data.params) == (
        "FINISHED",
        {"test/loss": 0.5},
        {"epochs": "3"},
    )


def test_distinct_names_stay_distinct_and_are_taken(client: Any) -> None:
    names = ["Film (blue)", "Film [blue]", "Film _blue_", "a//b", "../a", "/a", ".", "x" * 300, "x" * 301]
    tracker = MlflowTracker()
    start(tracker)
    tracker.log_metrics({f"test/dice_{name}": float(n) for n, name in enumerate(names)}, step=1)
    tracker.log_metrics({name: float(n) for n, name in enumerate(names)}, step=1)
    tracker.finish("FINISHED")
    assert sorted(only_run(client).data.metrics.values()) == sorted([*range(len(names))] * 2)
    assert allowed_name("test/dice_Film _blue_") == "test/dice_Film _blue_"


def test_the_source_is_the_command_and_not_the_end_of_an_override(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["polymask train", "data.data_dir=/somewhere/images"])
    tracker = MlflowTracker()
    start(tracker)
    tracker.finish("FINISHED")
    tags = only_run(client).data.tags
    assert tags["mlflow.source.name"] == "polymask train"
    assert tags["command"] == "polymask train data.data_dir=/somewhere/images"
