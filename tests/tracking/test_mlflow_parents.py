from __future__ import annotations

import logging
from typing import Any

import pytest

from polymask.tracking.mlflow_tracker import MlflowTracker


def tracked(name: str) -> MlflowTracker:
    tracker = MlflowTracker()
    tracker.start(name, params={}, tags={}, run_id="")
    return tracker


def finished(name: str) -> str:
    tracker = tracked(name)
    tracker.log_metrics({"test/dice": 0.5}, step=0)
    tracker.finish("FINISHED")
    return tracker.run_id


def children_of(client: Any, parent: str) -> set[str]:
    """Ask as MLflow's own pages do for the runs that they show below another."""
    experiment = client.get_experiment_by_name("polymask").experiment_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    return {run.info.run_name for run in found}


def test_adopted_runs_stand_below_the_parent_and_are_otherwise_as_before(client: Any) -> None:
    folds = [finished("fold_0"), finished("fold_1")]
    finished("other")
    before = client.get_run(folds[0])
    parent = tracked("summary")
    parent.adopt(["", *folds])
    parent.finish("FINISHED")
    assert children_of(client, parent.run_id) == {"fold_0", "fold_1"}
    after = client.get_run(folds[0])
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert after.data.metrics == {"test/dice": 0.5}
    assert after.data.tags == before.data.tags | {"mlflow.parentRunId": parent.run_id}


def test_a_later_summary_takes_them_over(client: Any) -> None:
    fold = finished("fold_0")
    first, second = tracked("first"), tracked("second")
    first.adopt([fold])
    second.adopt([fold])
    assert children_of(client, first.run_id) == set()
    assert children_of(client, second.run_id) == {"fold_0"}


def test_a_run_that_is_gone_does_not_hold_up_the_others(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    deleted, kept = finished("deleted"), finished("kept")
    client.delete_run(deleted)
    parent = tracked("summary")
    parent.adopt(["0123456789abcdef0123456789abcdef", deleted, kept])
    parent.log_metrics({"unet/dice_mean": 0.5}, step=0)
    parent.finish("FINISHED")
    assert children_of(client, parent.run_id) == {"kept"}
    assert client.get_run(parent.run_id).data.metrics == {"unet/dice_mean": 0.5}
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert all("refused a record" in warning for warning in warnings)
