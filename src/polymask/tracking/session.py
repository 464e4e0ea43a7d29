"""The time between the start of a run and its end, whichever end that is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from polymask.tracking.base import Tracker
from polymask.utils.interruption import Interrupted, interruptible, uninterrupted, was_interrupted

log = logging.getLogger(__name__)


@contextmanager
def run_session(
    tracker: Tracker,
    run_name: str,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    run_id: str,
    training: bool = True,
) -> Iterator[None]:
    """Keep the tracker's run open inside the block and close it as finished, failed or interrupted.

    A request to terminate (SIGTERM, as schedulers of clusters send it) ends the block like Ctrl-C does.

    Args:
        tracker: The tracker.
        run_name: Name of the run.
        params: Parameters of a new run.
        tags: Tags.
        run_id: The tracker's id of the run to go on with, "" for a new one.
        training: False for a later test of the run: it has a tag of its own and leaves the run's status and
            end as they were, so that an interrupted training does not look finished, nor a good one failed.
    """
    state_tag = "run_state" if training else "test_state"
    with interruptible():
        state, status = "failed", "FAILED"
        try:
            tracker.start(
                run_name,
                params=params,
                tags={**tags, state_tag: "running"},
                run_id=run_id,
                reopen=training,
            )
            tracker.set_tags({state_tag: "running"})
            yield
            state, status = "finished", "FINISHED"
        except BaseException as error:
            if not was_interrupted(error):
                raise
            state, status = "interrupted", "KILLED"
            log.warning("run %s was interrupted", run_name)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Interrupted from error  # a library made something else of it
        finally:
            with uninterrupted():
                tracker.set_tags({state_tag: state})
                tracker.finish(status if training else None)
