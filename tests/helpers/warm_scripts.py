"""Processes that start from an interpreter with the libraries loaded already, above all the scripts of src/.

Signals, exit statuses and what is printed are those of a process of its own; only the seconds that every
start of PyTorch takes are spent once. Tests of the start itself use `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.multiprocessing import start_processes

SOURCE = Path(__file__).parents[2] / "src"
LIBRARIES = [
    "albumentations",
    "matplotlib.figure",
    "mlflow",
    "pandas",
    "segmentation_models_pytorch",
    "sklearn.metrics",
    "torch._dynamo",
    "torchmetrics",
    "torchvision.models.detection",
    "transformers.models.vit_mae.modeling_vit_mae",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


class WarmScript:
    """A script of src/ that runs in `root`, which is also the project's; used like a `subprocess.Popen`."""

    def __init__(self, name: str, overrides: Sequence[str], root: Path) -> None:
        self._printed = root / f".printed_{os.urandom(4).hex()}"
        self._process = _context.Process(target=_run, args=(name, list(overrides), root, self._printed))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, or None while the script runs; the negative number of a deadly signal."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill it and wait until it is gone; its loader processes live on for some seconds."""
        assert self._process.pid is not None
        with suppress(ProcessLookupError):
            while True:
                os.kill(self._process.pid, signal.SIGKILL)
                time.sleep(0.01)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for the end; return what went to standard output and error, in its order."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        printed = self._printed.read_text()
        self._printed.unlink()
        return printed, None


def run_ranks(function: Callable[..., object], *arguments: Any, timeout: float = 120) -> None:
    """Run `function(rank, *arguments)` in two processes; what one of them raises is raised here."""
    started = start_processes(
        function, arguments, nprocs=2, join=False, daemon=True, start_method="forkserver"
    )
    end = time.monotonic() + timeout
    while not started.join(timeout=1):
        assert time.monotonic() < end, f"still running after {timeout} s"


def _run(name: str, overrides: list[str], root: Path, printed: Path) -> None:
    """Turn this fork into what `python src/{name}.py …` would be."""
    multiprocessing.set_start_method(None, force=True)  # else loader processes came from a server of its own
    target = os.open(printed, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.environ["POLYMASK_ROOT"] = str(root)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(root)
    script = SOURCE / f"{name}.py"
    sys.argv, sys.path[0] = [str(script), *overrides], str(SOURCE)
    runpy.run_path(str(script), run_name="__main__")
