"""A run's name belongs to one process at a time: it is claimed before anything is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from polymask.errors import UserError
from polymask.run_config import chosen_groups
from polymask.tracking.base import Tracker
from polymask.training.checkpoint import CheckpointFolder, RunRecord
from polymask.training.distributed import Processes
from polymask.training.run_names import best_name, run_of
from polymask.utils.files import check_writable
from polymask.utils.interruption import advise, was_interrupted
from polymask.utils.locks import try_lock
from polymask.utils.names import is_file_name

LONGEST_NAME = 120
"""Bytes of a run's name: file systems take 255, and `{run_a}_vs_{run_b}` has to fit with its endings."""
_FORBIDDEN_ENDINGS = (".pt", ".last", ".yaml", ".outbox")
"""A name with such an ending would be taken for a file, or for a file of another run."""


@contextmanager
def claim_run(cfg: DictConfig, checkpoints: CheckpointFolder, own: Processes) -> Iterator[str]:
    """Hold the name of a run inside the block, a new one or that of the run to go on with.

    The main process claims for all: it locks `.{name}.lock` in the checkpoint folder, which the operating
    system frees when the process dies, and marks the start with `{name}.yaml`. A start that fails before its
    first checkpoint takes that mark back; one that is interrupted keeps it, as the newest run. `cfg.run_name`
    is set.

    Raises:
        UserError: The name is not valid, taken, or held by another process; or there is nothing to resume.
    """
    with ExitStack() as held:
        name, problem = "", ""
        if own.is_main:
            try:
                check_writable(checkpoints.folder, remedy="start from another POLYMASK_ROOT")
                checkpoints.folder.mkdir(parents=True, exist_ok=True)
                name = _resumed(cfg, checkpoints, held) if cfg.resume else _new(cfg, checkpoints, held)
            except UserError as error:
                problem = str(error)  # all processes end with it
        name, problem = own.share((name, problem))
        if problem:
            raise UserError(problem)
        cfg.run_name = name
        yield name


def run_lock(checkpoints: CheckpointFolder, name: str) -> Path:
    """Return the path of the lock that the process of a run holds, for all of its checkpoints."""
    return checkpoints.folder / f".{run_of(name)}.lock"


@contextmanager
def undisturbed(checkpoints: CheckpointFolder, record: RunRecord, tracker: Tracker) -> Iterator[None]:
    """Hold a trained run for a test of it and let its tracker keep records, unless it is being trained.

    Where the tracker had to open another run, the checkpoints know that one at the end.
    """
    name = record.run_name
    with try_lock(run_lock(checkpoints, name)) as is_free:
        if is_free:
            tracker.keep(checkpoints.outbox(name))
        yield
        if is_free and tracker.run_id not in ("", record.tracker_run_id):
            checkpoints.note_tracker_run(name, tracker.run_id)


def check_run_name(name: str) -> None:
    """Raise UserError when `name` is no name for a run."""
    if not re.fullmatch(r"[\w.+=,-]+", name) or name.startswith("."):
        raise UserError(
            f"run_name={name!r} is no file name; use letters, digits, '_', '-', '.', '+' and '='."
        )
    ending = next((ending for ending in _FORBIDDEN_ENDINGS if name.lower().endswith(ending)), None)
    if ending is not None:
        raise UserError(
            f"run_name={name!r} ends in {ending!r}, as the files of a run do; leave that ending out."
        )
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(
            f"run_name={name[:20]!r}… has {len(os.fsencode(name))} bytes; give at most {LONGEST_NAME}."
        )


def check_monitor_names(name: str, monitors: Iterable[str]) -> None:
    """Raise UserError when the checkpoint of a further metric, or a report of it, could not be called so."""
    for key in monitors:
        own = best_name(name, key)
        if not is_file_name(own) or len(os.fsencode(own)) > LONGEST_NAME:
            raise UserError(
                f"task.monitors=[{key}] would write {own}.pt, which is no name of a file, or has more than "
                f"{LONGEST_NAME} bytes; choose a shorter run_name, or leave that metric out."
            )


def _resumed(cfg: DictConfig, checkpoints: CheckpointFolder, held: ExitStack) -> str:
    """Claim the run to go on with: the given one, else the one that was started last, and no other."""
    if cfg.init_from is not None:
        raise UserError("resume=true goes on with a run, init_from= starts a new one; give only one of them.")
    given = None if cfg.run_name is None else f"{cfg.run_name}{_sweep_suffix()}"
    name = given or checkpoints.newest_run()
    if name is None or not (checkpoints.last(name).is_file() or checkpoints.marker(name).is_file()):
        # The newest of runs that came without their mark; or it is said that there is none.
        name = checkpoints.find(name, resumable=True).name.removesuffix(".last.pt")
    # Before its checkpoints are looked for: another process may be in the first epoch.
    if not held.enter_context(try_lock(run_lock(checkpoints, name))):
        raise _busy(name)
    if not checkpoints.last(name).is_file():
        what = f"run_name={name!r}" if given else f"the newest run {name!r}"
        raise UserError(
            f"{what} was stopped before its first epoch ended, so it cannot be resumed; start it anew, "
            "without resume=true, or name another run with run_name=."
        )
    held.enter_context(_ending(checkpoints, name, is_new=False))
    return name


def _new(cfg: DictConfig, checkpoints: CheckpointFolder, held: ExitStack) -> str:
    """Claim the given name, or a default that no other run has."""
    if cfg.run_name is None:
        return _new_default(cfg, checkpoints, held)
    name = f"{cfg.run_name}{_sweep_suffix()}"
    check_run_name(name)
    if not held.enter_context(try_lock(run_lock(checkpoints, name))):
        raise _busy(name)
    if checkpoints.last(name).exists() or checkpoints.best_names(name):
        others = [f"{own}.pt" for own in checkpoints.best_names(name) if own != name]
        raise UserError(
            f"run_name={name!r} is taken in {checkpoints.folder}; use resume=true to go on with it, choose "
            f"another name, or delete its files{', ' if others else ''}{', '.join(others)}."
        )
    is_new = not checkpoints.marker(name).exists()
    checkpoints.marker(name).touch()
    held.enter_context(_ending(checkpoints, name, is_new=is_new))
    checkpoints.remove_outboxes(name)  # of a run of that name whose files were deleted
    return name


def _new_default(cfg: DictConfig, checkpoints: CheckpointFolder, held: ExitStack) -> str:
    """Claim `{model}_{encoder}_{time}`, with `_2`, `_3`, … when it is taken."""
    model = cfg.model.get("model") or chosen_groups().get("model", "model")
    parts = [model, cfg.model.get("encoder_name") or cfg.model.get("backbone", "")]
    stem = "_".join(str(part).replace("/", "-") for part in parts if part)
    stem = f"{stem}_{datetime.now():%Y%m%d_%H%M}"
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        number += 1
        try:
            checkpoints.marker(name).open("x").close()
        except FileExistsError:
            continue
        if held.enter_context(try_lock(run_lock(checkpoints, name))):
            held.enter_context(_ending(checkpoints, name, is_new=True))
            return name


@contextmanager
def _ending(checkpoints: CheckpointFolder, name: str, *, is_new: bool) -> Iterator[None]:
    """Clear what a killed process of the run left; at the end say how to go on, or leave no trace."""
    last = checkpoints.last(name)
    checkpoints.remove_leftovers(name)
    try:
        yield
    except BaseException as error:
        if was_interrupted(error):
            advise(
                f"resume=true run_name={name} goes on with it"
                if last.is_file()
                else f"the first epoch of {name} had not ended, so it cannot be resumed: start it anew"
            )
        elif is_new and not last.is_file() and not checkpoints.best_names(name):
            checkpoints.marker(name).unlink(missing_ok=True)
        raise


def _busy(name: str) -> UserError:
    return UserError(
        f"run_name={name!r} is in use by another process, which trains or tests it; wait for that one, stop "
        "it, or choose another name."
    )


def _sweep_suffix() -> str:
    """Return what tells the runs of a sweep with one `run_name` apart: `_seed=1`, or the job's number.

    "" outside of a sweep, and in one that gives each of its runs a name of its own.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return ""
    job = HydraConfig.get()
    file = Path(job.sweep.dir) / "multirun.yaml"  # what was typed; not every sweeper writes it
    if not file.is_file():
        return f"_{job.job.num}"
    overrides = OmegaConf.load(file).hydra.overrides
    words: Any = OmegaConf.to_container(overrides.task)  # `${…}` as it was typed
    typed = OverridesParser.create().parse_overrides(words)
    swept = [override.get_key_element() for override in typed if override.is_sweep_override()]
    if any(override.get_key_element() == "run_name" and "${" in str(override.value()) for override in typed):
        return ""  # composed of what differs
    if swept == ["run_name"]:
        return ""
    pairs = [text.partition("=") for text in job.overrides.task]
    suffix = "".join(
        f"_{key.lstrip('+').rpartition('.')[2]}={value}"
        for key, _, value in pairs
        if key in swept and key != "run_name"
    )
    return suffix if re.fullmatch(r"[\w.+=,-]{1,60}", suffix) else f"_{job.job.num}"
