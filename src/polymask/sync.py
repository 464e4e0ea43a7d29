"""Deliver to MLflow what it could not take while a run went on: `polymask sync [RUN]`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from polymask.errors import UserError, nearest
from polymask.places import is_inside_folder, is_inside_store
from polymask.run_claim import run_lock
from polymask.run_files import CHECKPOINTS
from polymask.tracking.journal import Journal, Record
from polymask.tracking.mlflow_tracker import MlflowTracker
from polymask.training.checkpoint import CheckpointFolder
from polymask.training.run_names import typed_name
from polymask.trust import TRUSTED
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
    names = waiting if cfg.run_name is None else [_known(typed_name(str(cfg.run_name)), checkpoints, waiting)]
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
        _check_places(name, known, records)
        tracker = MlflowTracker(tracking_uri=known["uri"], experiment=known["experiment"])
        tracker.keep(path)
        left, trouble = tracker.deliver()
        if left:
            raise UserError(
                f"MLflow at {tracker.uri} takes no records ({trouble}); {left} records of {name} wait in "
                f"{path}: try again when it is back."
            )
        checkpoints.note_tracker_run(name, tracker.run_id)
    log.info("%d records of %s delivered to MLflow at %s", len(records), name, tracker.uri)
    return len(records)


def _check_places(name: str, known: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Refuse records that came from elsewhere, and would carry files of this machine to a stranger's server.

    Raises:
        UserError: The tracker, or a file to keep there, is neither of this project nor trusted.
    """
    uri = str(known.get("uri"))
    if not os.environ.get("MLFLOW_TRACKING_URI") and not is_inside_store(uri):
        raise UserError(
            f"the records of {name} wait for MLflow at {uri}, which is not of this project: set "
            f"MLFLOW_TRACKING_URI={uri} if you know it."
        )
    outside = [path for record in records if (path := record.get("path")) and not is_inside_folder(str(path))]
    if outside:
        raise UserError(
            f"the records of {name} hold the file {outside[0]}, which is not of this project: set "
            f"{TRUSTED}={Path(outside[0]).parent} if it is to be sent."
        )
