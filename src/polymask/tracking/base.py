"""What a run needs of a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Records one run. No method raises when the tracker is out of reach: training goes on."""

    run_id: str
    """The tracker's own id of the run, "" when there is none."""

    def keep(self, path: Path) -> None:
        """Keep in a file what cannot be delivered, and deliver what an earlier process left there."""

    def start(
        self,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str,
        reopen: bool = True,
    ) -> None:
        """Open a run, or go on with `run_id` when given; `reopen` marks it as running again."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at a step (here: epochs done)."""

    def log_steps(self, points: Sequence[Mapping[str, float]]) -> None:
        """Record points of the step log, all at once, in their order.

        Each has `step` (optimisation steps done), `epoch`, `time` (seconds since 1970) and its metrics, whose
        names begin with `step/`. Points that are recorded again leave one of each.
        """

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, below `folder` of the run's artifacts."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Show other runs of this tracker, by their ids, below this one; "" is no run and is left out."""

    def finish(self, status: str | None) -> None:
        """Close the run as `FINISHED`, `FAILED` or `KILLED`; None leaves an older run's end as it was."""

    def places(self) -> dict[str, str]:
        """Return by name of the tracker where, or with which command, a person sees the run."""
        ...


class NoTracker:
    """Records nothing (`tracker=none`, and all processes but the main one)."""

    run_id = ""

    def keep(self, path: Path) -> None:
        """Do nothing."""

    def start(
        self,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str,
        reopen: bool = True,
    ) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_steps(self, points: Sequence[Mapping[str, float]]) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Do nothing."""

    def finish(self, status: str | None) -> None:
        """Do nothing."""

    def places(self) -> dict[str, str]:
        """Return nothing."""
        return {}


def step_metrics(point: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a point of the step log that have a value."""
    return {name: value for name, value in point.items() if name.startswith("step/") and value == value}
