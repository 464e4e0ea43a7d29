"""Several trackers at once: `tracker=[mlflow,tensorboard]`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.tracking.base import Tracker

log = logging.getLogger(__name__)


class SeveralTrackers:
    """Gives every record to several trackers; trouble of one, which is a warning, is none of the others'.

    Args:
        **trackers: The trackers by name; at most one of them has ids of its own for runs.
    """

    def __init__(self, **trackers: Tracker) -> None:
        self.trackers = trackers
        self._in_trouble: set[str] = set()

    @property
    def run_id(self) -> str:
        """The id of the run in the tracker that has one."""
        return next((tracker.run_id for tracker in self.trackers.values() if tracker.run_id), "")

    def keep(self, path: Path) -> None:
        """See `Tracker`; so are the others."""
        self._all("keep", path)

    def start(
        self,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str,
        reopen: bool = True,
    ) -> None:
        """Open the run in each."""
        self._all("start", run_name, params=params, tags=tags, run_id=run_id, reopen=reopen)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics in each."""
        self._all("log_metrics", metrics, step=step)

    def log_steps(self, points: Sequence[Mapping[str, float]]) -> None:
        """Record points of the step log in each."""
        self._all("log_steps", points)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file in each that takes it."""
        self._all("log_artifact", path, folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags in each."""
        self._all("set_tags", tags)

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Show other runs below this one in each."""
        self._all("adopt", run_ids)

    def finish(self, status: str | None) -> None:
        """Close the run in each."""
        self._all("finish", status)

    def places(self) -> dict[str, str]:
        """Return where each shows the run."""
        return {name: place for tracker in self.trackers.values() for name, place in tracker.places().items()}

    def _all(self, method: str, *arguments: Any, **options: Any) -> None:
        for name, tracker in self.trackers.items():
            try:
                getattr(tracker, method)(*arguments, **options)
            except Exception as error:  # against what trackers promise, but no reason to stop a training
                if name not in self._in_trouble:
                    log.warning("tracker %s takes no records (%s); the run goes on.", name, error)
                self._in_trouble.add(name)
