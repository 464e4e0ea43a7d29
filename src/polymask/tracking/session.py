"""The time between the start of a run and its end, whichever end that is."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from polymask.tracking.base import Tracker

log = logging.getLogger(__name__)


@contextmanager
def run_session(
    tracker: Tracker, run_name: str, *, params: Mapping[str, Any], tags: Mapping[str, str], run_id: str
) -> Iterator[None]:
    """Keep the tracker's run open inside the block and close it as finished, failed or interrupted.

    A request to terminate (SIGTERM, as schedulers of clusters send it) ends the block like Ctrl-C does.

    Args:
        tracker: The tracker.
        run_name: Name of the run.
        params: Parameters of a new run.
        tags: Tags; `run_state` is added.
        run_id: The tracker's id of the run to go on with, "" for a new one.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    tracker.start(run_name, params=params, tags={**tags, "run_state": "running"}, run_id=run_id)
    tracker.set_tags({"run_state": "running"})
    state, status = "failed", "FAILED"
    try:
        yield
        state, status = "finished", "FINISHED"
    except KeyboardInterrupt:
        state, status = "interrupted", "KILLED"
        log.warning("interrupted; go on with: python src/train.py resume=true run_name=%s", run_name)
        raise
    finally:
        tracker.set_tags({"run_state": state})
        tracker.finish(status)
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
