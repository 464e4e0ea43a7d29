"""How many processor cores this process may use, and how many of them others keep busy."""

from __future__ import annotations

import os
import time
from pathlib import Path


def num_cores() -> int:
    """Return the cores that affinity (taskset, Slurm) and the container's quota leave to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def busy_cores(seconds: float = 0.25, statistics: Path = Path("/proc/stat")) -> float:
    """Return how many of this process' cores other programs keep busy, 0.0 where the system does not tell.

    Programs that gave way by `nice` do not count.

    Args:
        seconds: How long to look; this process must not compute meanwhile.
        statistics: The kernel's counts of time, for each core a line
            `cpuN user nice system idle iowait irq softirq steal …`.
    """
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    before = _times(statistics)
    time.sleep(seconds)
    after = _times(statistics)
    shares = []
    for core in own & before.keys() & after.keys():
        busy, total = (late - early for early, late in zip(before[core], after[core], strict=True))
        shares.append(busy / total if total > 0 else 0.0)
    return sum(shares)


def _times(statistics: Path) -> dict[int, tuple[int, int]]:
    """Return (busy, all) ticks of each core since the system started."""
    found = {}
    for line in _read(statistics).splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and len(numbers) >= 8:
            user, nice, system, idle, waiting, *rest = map(int, numbers[:8])
            found[int(name[3:])] = (
                user + system + sum(rest),
                user + nice + system + idle + waiting + sum(rest),
            )
    return found


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the cores that the control groups of this process allow, None without a limit.

    Args:
        root: Where the control groups are mounted.
        own: File with the names of this process' groups, a line `number:controllers:/path` each.
    """
    found = []
    for line in _read(own).splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        # In a container the group's name is that of the host, and its files lie at the top.
        for folder in (base, root / "cpu", base / path.lstrip("/")):
            found += [_limit(_read(folder / "cpu.max").split())]
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            found += [_limit([_read(folder / name).strip() for name in names])]
    limits = [limit for limit in found if limit is not None]
    return min(limits, default=None)


def _limit(numbers: list[str]) -> float | None:
    """Return quota over period; a quota of `max` or below 0 is none."""
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers) or numbers[1] == "0":
        return None
    return int(numbers[0]) / int(numbers[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
