"""How the best checkpoints of a run are called: `run`, and `run@metric` for the best by another metric."""

from __future__ import annotations

_MARK = "@"
"""No run has it in its name, so no file of a run can be taken for another run's."""


def best_name(run_name: str, metric: str) -> str:
    """Return the name of a run's best checkpoint by a metric such as `val/auroc_macro`: `run@auroc_macro`."""
    return f"{run_name}{_MARK}{metric.removeprefix('val/')}"


def run_of(name: str) -> str:
    """Return the run that a checkpoint called `run` or `run@metric` belongs to."""
    return name.partition(_MARK)[0]


def metric_of(name: str) -> str:
    """Return the metric of a checkpoint called `run@metric`, "" for one called `run`."""
    return name.partition(_MARK)[2]


def is_by_metric(name: str) -> bool:
    """Return whether a name is that of a checkpoint `run@metric`."""
    return _MARK in name


def typed_name(text: str) -> str:
    """Return the name that was meant: of `run@val/metric` what its file is called."""
    run, mark, metric = text.partition(_MARK)
    return best_name(run, metric) if mark else text
