from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from polymask.tracking.base import NoTracker
from polymask.tracking.mlflow_tracker import MlflowTracker
from polymask.tracking.session import run_session


class Recorder(NoTracker):
    """Keeps the calls that it gets, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def start(
        self,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str,
        reopen: bool = True,
    ) -> None:
        self.calls.append(("start", (run_name, dict(params), dict(tags), run_id)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.calls.append(("set_tags", dict(tags)))

    def finish(self, status: str | None) -> None:
        self.calls.append(("finish", status))


def session(tracker: Any, **changes: Any) -> Any:
    arguments = {"params": {"epochs": 2}, "tags": {"device": "cpu"}, "run_id": ""} | changes
    return run_session(tracker, "tiny", **arguments)


def send_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)  # the handler runs before this is over
    pytest.fail("SIGTERM was not noticed")


def fail() -> None:
    raise RuntimeError("out of memory")


def interrupt() -> None:
    raise KeyboardInterrupt


ENDINGS = {
    "finished": (lambda: None, None, "finished", "FINISHED"),
    "failed": (fail, RuntimeError, "failed", "FAILED"),
    "interrupted": (interrupt, KeyboardInterrupt, "interrupted", "KILLED"),
    "terminated": (send_sigterm, KeyboardInterrupt, "interrupted", "KILLED"),
}


def run_to_its_end(tracker: Any, action: Callable[[], None], error: type[BaseException] | None) -> None:
    if error is None:
        with session(tracker):
            action()
        return
    with pytest.raises(error), session(tracker):
        action()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_tracker_learns_how_a_run_ended(ending: str) -> None:
    action, error, state, status = ENDINGS[ending]
    before = signal.getsignal(signal.SIGTERM)
    tracker = Recorder()
    run_to_its_end(tracker, action, error)
    assert tracker.calls == [
        ("start", ("tiny", {"epochs": 2}, {"device": "cpu", "run_state": "running"}, "")),
        ("set_tags", {"run_state": "running"}),
        ("set_tags", {"run_state": state}),
        ("finish", status),
    ]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("ending", ENDINGS)
def test_mlflow_shows_how_a_run_ended(ending: str, database: Path, client: Any) -> None:
    action, error, state, status = ENDINGS[ending]
    tracker = MlflowTracker()
    run_to_its_end(tracker, action, error)
    run = client.get_run(tracker.run_id)
    assert run.info.status == status
    assert run.data.tags["run_state"] == state
    assert run.data.tags["device"] == "cpu"


def test_a_resumed_run_is_shown_as_running_again(database: Path, client: Any) -> None:
    tracker = MlflowTracker()
    run_to_its_end(tracker, interrupt, KeyboardInterrupt)
    again = MlflowTracker()
    with session(again, run_id=tracker.run_id):
        run = client.get_run(tracker.run_id)
        assert (run.info.status, run.data.tags["run_state"]) == ("RUNNING", "running")
    assert client.get_run(tracker.run_id).data.tags["run_state"] == "finished"


class InterruptedAtStart(Recorder):
    """Interrupted while it opens the run."""

    def start(self, *args: Any, **kwargs: Any) -> None:
        interrupt()


class InterruptedAtFinish(Recorder):
    """Interrupted while it closes the run."""

    def finish(self, status: str | None) -> None:
        super().finish(status)
        interrupt()


@pytest.mark.parametrize(
    ("tracker", "status"), [(InterruptedAtStart(), "KILLED"), (InterruptedAtFinish(), "FINISHED")]
)
def test_an_interruption_of_the_tracker_itself_leaves_the_signal_as_it_was(
    tracker: Recorder, status: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), session(tracker):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    assert tracker.calls[-1] == ("finish", status)


def test_a_session_works_in_a_thread() -> None:
    tracker, errors = Recorder(), []

    def work() -> None:
        try:
            with session(tracker):
                pass
        except BaseException as error:
            errors.append(error)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert tracker.calls[-1] == ("finish", "FINISHED")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_test_leaves_the_end_of_the_training_alone() -> None:
    recorder = Recorder()
    with session(recorder, run_id="abc", training=False):
        pass
    assert ("set_tags", {"test_state": "finished"}) in recorder.calls
    assert recorder.calls[-1] == ("finish", None)
    assert not any("run_state" in str(call) for call in recorder.calls)
