"""The folder of one execution, `outputs/YYYY-MM-DD/HH-MM-SS`."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from polymask.utils.paths import resolve

_LOG = "run.log"
_OF_EVERY_START = {".hydra", "config.yaml", "split.csv", _LOG}
"""What an execution writes before it has done anything."""


def output_dir() -> Path:
    """Return the folder of this execution."""
    if HydraConfig.initialized():
        return Path(HydraConfig.get().runtime.output_dir)
    return resolve("outputs") / "python"


def discard_failed_start() -> None:
    """Remove the folder of an execution that failed before it had done anything.

    The log stays where it holds a warning, which may tell more than the error. The folders of a sweep stay.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.MULTIRUN:
        return
    folder = output_dir()
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - _OF_EVERY_START:
        return
    log = folder / _LOG
    if log.is_file() and " WARNING " in log.read_text(encoding="utf-8", errors="replace"):
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # other executions of the day
        folder.parent.rmdir()
