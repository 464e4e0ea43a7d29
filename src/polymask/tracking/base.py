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

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, below `folder` of the run's artifacts."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Show other runs of this tracker, by their ids, below this one; "" is no run and is left out."""

    def finish(self, status: str | None) -> None:
        """Close the run as `FINISHED`, `FAILED` or `KILLED`; None leaves an older run's end as it was."""


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

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Do nothing."""

    def finish(self, status: str | None) -> None:
        """Do nothing."""
