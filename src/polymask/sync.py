"""Deliver to MLflow what it could not take while a run went on: `polymask sync [RUN]`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from polymask.errors import UserError, nearest
from polymask.run_claim import run_lock
from polymask.run_files import CHECKPOINTS
from polymask.tracking.journal import Journal
from polymask.tracking.mlflow_tracker import MlflowTracker
from polymask.training.checkpoint import CheckpointFolder
from polymask.utils.files import write_atomically
from polymask.utils.locks import try_lock
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What `sync` returns: the number of delivered records by run."""

    delivered: dict[str, int]
    objective: None = None


def sync(cfg: DictConfig) -> SyncResult:
    """Deliver the waiting records of one run, or of all.

    Raises:
        UserError: There is no such run, it is still going on, or the tracker is still out of reach.
    """
    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    waiting = sorted(
        path.name.removesuffix(".outbox.jsonl") for path in checkpoints.folder.glob("*.outbox.jsonl")
    )
    names = waiting if cfg.run_name is None else [_known(str(cfg.run_name), checkpoints, waiting)]
    delivered = {name: _deliver(name, checkpoints) for name in names if name in waiting}
    if not delivered:
        log.info("nothing waits%s", "" if cfg.run_name is None else f" of {cfg.run_name}")
    return SyncResult(delivered=delivered)


def _known(name: str, checkpoints: CheckpointFolder, waiting: list[str]) -> str:
    if (
        name not in waiting
        and not checkpoints.best(name).is_file()
        and not checkpoints.marker(name).is_file()
    ):
        raise UserError(
            f"run_name={name!r} is no run of {checkpoints.folder}.{nearest(name, checkpoints.run_names())} "
            f"Records wait of: {', '.join(waiting) or 'none'}."
        )
    return name


def _deliver(name: str, checkpoints: CheckpointFolder) -> int:
    """Send the records of a run, and let its checkpoints know where they went; return their number."""
    with try_lock(run_lock(checkpoints, name)) as is_free:
        if not is_free:
            raise UserError(
                f"{name} is still going on; it delivers its records itself, at the latest at its end."
            )
        path = checkpoints.outbox(name)
        known, records = Journal(path).read()
        if not records:
            path.unlink(missing_ok=True)
            return 0
        tracker = MlflowTracker(tracking_uri=known["uri"], experiment=known["experiment"])
        tracker.keep(path)
        left, trouble = tracker.deliver()
        if left:
            raise UserError(
                f"MLflow at {tracker.uri} takes no records ({trouble}); {left} records of {name} wait in "
                f"{path}: try again when it is back."
            )
        for file in (checkpoints.best(name), checkpoints.last(name)):
            _note_run_id(file, tracker.run_id)
    log.info("%d records of %s delivered to MLflow at %s", len(records), name, tracker.uri)
    return len(records)


def _note_run_id(path: Path, run_id: str) -> None:
    """Let a checkpoint that was written while the tracker was away know the tracker's run."""
    if not path.is_file():
        return
    content, times = torch.load(path, map_location="cpu", weights_only=True), path.stat()
    if content["tracker_run_id"] == run_id:
        return
    content["tracker_run_id"] = run_id
    write_atomically(path, lambda file: torch.save(content, file))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # it is no newer than before
