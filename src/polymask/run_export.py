"""Files of a run for others: its encoder (also at the end of a training for its sake), or the whole model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from polymask.errors import UserError
from polymask.factories import rebuild
from polymask.families.base import Family, Task
from polymask.run_config import write_config
from polymask.run_files import CHECKPOINTS
from polymask.training.checkpoint import (
    CheckpointFolder,
    RunRecord,
    load_checkpoint,
    load_weights,
    run_record,
    stored_weights,
)
from polymask.training.state import TrainingState
from polymask.utils.files import write_atomically
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".bin")
"""Of files of `torch.save`; the same name with `.yaml` is that of the description."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What the exports return: the file with the weights."""

    path: Path
    objective: None = None


def export_encoder(cfg: DictConfig) -> ExportResult:
    """Write the encoder of a run's best checkpoint to a file, with a description beside it."""
    path = _checked(cfg.path, SUFFIXES)
    content = load_checkpoint(CheckpointFolder(resolve(CHECKPOINTS)).find(cfg.run_name))
    task = rebuild(content).build_task()
    state = TrainingState(**content["training"])
    _write(task, run_record(content), state, state.epoch, path)
    return ExportResult(path=path)


def export_model(cfg: DictConfig) -> ExportResult:
    """Copy a run's best checkpoint to a file, with its configuration as `config.yaml` beside it."""
    path = _checked(cfg.path, SUFFIXES[:2])
    best = CheckpointFolder(resolve(CHECKPOINTS)).find(cfg.run_name)
    content = load_checkpoint(best)
    beside = path.with_name("config.yaml")
    write_config(OmegaConf.create(content["config"]), beside)
    write_atomically(path, lambda file: file.write(best.read_bytes()))
    log.info("%s in %s, its configuration in %s", content["run_name"], path, beside)
    return ExportResult(path=path)


def _checked(path: str, suffixes: Sequence[str]) -> Path:
    found = resolve(path)
    if found.suffix not in suffixes or found.is_dir():
        raise UserError(
            f"path={path} is not valid; give the name of a file that ends in {', '.join(suffixes)}."
        )
    return found


def keep_encoder(family: Family, task: Task, best: Path, record: RunRecord, state: TrainingState) -> None:
    """Write the encoder at the end of a training, if its family wants one to be left.

    Args:
        family: The family.
        task: The trained task; it gets the weights of the best checkpoint.
        best: That checkpoint.
        record: What the run says of itself.
        state: Course of the training.
    """
    if family.encoder_path is None:
        return
    load_weights(task, stored_weights(best), source=str(best))
    _write(task, record, state, state.best_epoch, resolve(family.encoder_path))


def _write(task: Task, record: RunRecord, state: TrainingState, epoch: int, path: Path) -> None:
    """Write a task's encoder as it was after `epoch`, and where it comes from.

    Raises:
        UserError: The task has none that can be written, or the disk does not take it.
    """
    encoder = task.exported_encoder()
    if encoder is None:
        raise UserError(
            f"run_name={record.run_name!r} has no plain vision transformer as its encoder, so there is "
            "nothing to export; its checkpoint holds the whole network."
        )
    losses = {row["epoch"]: row.get("val/loss") for row in state.history}
    origin = {
        "run_name": record.run_name,
        "epochs": epoch,
        "val_loss": losses.get(epoch),
        "split_sha256": record.split_sha256,
    }
    encoder.write(path, origin)
    log.info("encoder of %s in %s, its description in %s", record.run_name, path, path.with_suffix(".yaml"))
