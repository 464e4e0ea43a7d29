"""The table at the end of a sweep (`-m`): its runs, what differs between them, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from polymask.utils.text_tables import text_table


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One run of a sweep.

    Attributes:
        number: Its number in the sweep, from 0.
        overrides: Its command line.
        result: What its command returned, None when it failed.
        error: Why it failed.
    """

    number: int
    overrides: Sequence[str]
    result: Any = None
    error: str = ""


def sweep_table(jobs: Sequence[SweepJob]) -> str:
    """Return a table of the runs of a sweep, the best one first, those that failed last."""
    task = next((job.result.task for job in jobs if hasattr(job.result, "task")), None)
    sign = -1.0 if getattr(task, "mode", "min") == "max" else 1.0
    keys = _differing_keys([_pairs(job.overrides) for job in jobs])
    rows = []
    for job in sorted(jobs, key=lambda job: (bool(job.error), _rank(job, sign), job.number)):
        pairs, objective = _pairs(job.overrides), _objective(job)
        shown = f"failed: {job.error}" if job.error else "" if objective is None else f"{objective:.6g}"
        name = getattr(job.result, "run_name", "")
        rows.append([str(job.number), name, *(pairs.get(key, "") for key in keys), shown])
    failed = sum(bool(job.error) for job in jobs)
    title = f"sweep of {len(jobs)} runs, best first" + (f"; {failed} failed" if failed else "")
    return text_table(title, rows, header=["#", "run", *keys, getattr(task, "monitor", "objective")])


def _objective(job: SweepJob) -> float | None:
    return getattr(job.result, "objective", None)


def _rank(job: SweepJob, sign: float) -> float:
    value = _objective(job)
    return math.inf if value is None or math.isnan(value) else sign * value


def _pairs(overrides: Iterable[str]) -> dict[str, str]:
    split = (text.partition("=") for text in overrides)
    return {key.lstrip("+"): value.strip("'") for key, _, value in split}


def _differing_keys(jobs: Sequence[dict[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for pairs in jobs for key in pairs)
    return [key for key in keys if len({pairs.get(key) for pairs in jobs}) > 1]
