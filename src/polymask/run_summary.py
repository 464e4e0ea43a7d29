"""The box at the end of a training: what came out, and the commands that go on from here."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from polymask.tracking.base import Tracker
from polymask.training.run_names import best_name
from polymask.training.settings import Settings
from polymask.training.state import TrainingState
from polymask.utils.text_tables import duration, text_table


def run_summary(
    run_name: str,
    state: TrainingState,
    settings: Settings,
    monitor: str,
    checkpoint: Path,
    report: Path | None,
    tracker: Tracker,
    metrics_file: Path,
    *,
    can_infer: bool,
) -> str:
    """Return the box.

    Args:
        run_name: Name of the run.
        state: Its course.
        settings: How it was trained.
        monitor: The metric that says which epoch is best.
        checkpoint: File of the best epoch.
        report: Folder of the test's report, None when it was not tested.
        tracker: The tracker.
        metrics_file: Table of the metrics of all epochs.
        can_infer: Whether the family has something to apply to new cases.
    """
    epochs, patience = settings.epochs, settings.patience
    stopped = state.epoch < epochs
    watched = " or ".join([monitor, *state.best_values])
    how = f"stopped after {state.epochs_since_best} epochs without a better {watched}" if stopped else "done"
    seconds = [row["epoch_seconds"] for row in state.history if "epoch_seconds" in row]
    more = {"trainer.patience": str(2 * (patience or 1))} if stopped else {"epochs": str(2 * epochs)}
    name = {"run_name": run_name}
    infer = [("infer", command("infer", name | {"data.data_dir": "images/"}))] if can_infer else []
    rows = [
        ("best", f"epoch {state.best_epoch}: {monitor} {state.best_value:.6g}"),
        ("checkpoint", str(checkpoint)),
        *_other_bests(run_name, state),
        ("report", str(report) if report else "not tested"),
        ("time", _times(seconds)),
        ("seed", str(settings.seed)),
        ("metrics", str(metrics_file)),
        *tracker.places().items(),
        ("test", command("test", name)),
        *infer,
        ("resume", command("train", {"resume": "true"} | name | more)),
    ]
    return text_table(f"run {run_name}: epoch {state.epoch} of {epochs}, {how}", rows)


def command(name: str, pairs: dict[str, str]) -> str:
    """Return a command line for the shell, with the program as this process was started."""
    words = [shlex.quote(f"{key}={value}") for key, value in pairs.items()]
    return " ".join([_program(name, sys.orig_argv), *words])


def _program(name: str, arguments: list[str]) -> str:
    """Return `polymask NAME`, or the script NAME.py beside the one that was started."""
    script = next((Path(word) for word in arguments[1:] if word.endswith(".py")), None)
    if script is not None and script.stem in ("train", "test", "infer"):
        return f"python {shlex.quote(str(script.with_name(f'{name}.py')))}"
    if "-m" in arguments[:3] and arguments[2] in ("polymask", "polymask.cli"):
        return f"python -m polymask {name}"
    return f"polymask {name}"


def _other_bests(run_name: str, state: TrainingState) -> list[tuple[str, str]]:
    """Return a row for each further metric: its epoch and value, and what to type as run_name for it."""
    return [
        (
            f"best {key.removeprefix('val/')}",
            f"epoch {state.best_epochs[key]}: {key} {value:.6g}, run_name={best_name(run_name, key)}",
        )
        for key, value in state.best_values.items()
    ]


def _times(seconds: list[float]) -> str:
    if not seconds:
        return "unknown"
    total = sum(seconds)
    return f"{total / len(seconds):.1f} s per epoch, {duration(total)} in all"
