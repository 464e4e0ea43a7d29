"""TensorBoard: parameters, metrics and pictures of a run as event files."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polymask.errors import UserError
from polymask.tracking.base import step_metrics
from polymask.utils.interruption import uninterrupted
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_PICTURES = (".png", ".jpg", ".jpeg")
_EPOCHS, _STEPS, _SUMMARY = "", "steps", "summary"
"""Parts of a run: folders below its own, since values of one folder share one axis of steps."""


class TensorBoardTracker:
    """Records a run as event files in `{folder}/{run}`.

    Metrics of epochs lie in the run's folder itself, points of the step log in `steps`, parameters, tags,
    metrics without an epoch (those of a test) and figures in `summary`, previews in `previews`.

    A process that goes on with a run opens each part where it begins to write, and what lies there or later
    counts no more (the `purge_step` of `SummaryWriter`), so nothing is shown twice. Trouble is a warning.

    Args:
        folder: Folder of all runs; a relative one is meant from the project root.

    Raises:
        UserError: TensorBoard is not installed.
    """

    run_id = ""

    def __init__(self, *, folder: str = "outputs/tensorboard") -> None:
        if find_spec("tensorboard") is None:
            raise UserError(
                "tracker=tensorboard needs the package tensorboard: pip install 'polymask[tensorboard]', or "
                "choose tracker=mlflow."
            )
        self.folder = resolve(folder)
        self._run = self.folder
        self._texts: dict[str, Mapping[str, Any]] = {}
        self._writers: dict[str, Any] = {}
        self._epoch = 0
        self._is_silent = False

    def keep(self, path: Path) -> None:
        """Do nothing: files are always in reach."""

    def start(
        self,
        run_name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        run_id: str,
        reopen: bool = True,
    ) -> None:
        """Open a run; of a training the parameters are written at once."""
        self._close()
        self._run = self.folder / run_name
        self._texts = {"params": dict(params), "tags": dict(tags)}
        if reopen:
            self._record(_SUMMARY, 0, lambda writer: None)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics of an epoch, or of the run as a whole (0)."""
        self._epoch = step or self._epoch

        def write(writer: Any) -> None:
            for name, value in metrics.items():
                if value == value:
                    writer.add_scalar(name, value, step)

        self._record(_EPOCHS if step else _SUMMARY, step, write)

    def log_steps(self, points: Sequence[Mapping[str, float]]) -> None:
        """Record points of the step log."""

        def write(writer: Any) -> None:
            for point in points:
                for name, value in step_metrics(point).items():
                    writer.add_scalar(name, value, int(point["step"]), walltime=point["time"])

        if points:
            is_first = points[0]["epoch"] == 1  # whatever a run of that name left, which was deleted
            self._record(_STEPS, 0 if is_first else int(points[0]["step"]), write)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a picture: one in a folder belongs to the newest epoch, any other to the run as a whole."""

        def write(writer: Any) -> None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(folder or path.stem, pixels, step, dataformats="HWC")

        step = self._epoch if folder else 0
        if path.suffix.lower() in _PICTURES:
            self._record(folder or _SUMMARY, step, write)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing: texts are written once, at the start."""

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Do nothing: runs have no places below others."""

    def finish(self, status: str | None) -> None:
        """Close the files."""
        self._close()

    def places(self) -> dict[str, str]:
        """Return the command that shows all runs."""
        return {"TensorBoard": f"tensorboard --logdir {shlex.quote(str(self.folder))}"}

    def _record(self, part: str, step: int, write: Callable[[Any], None]) -> None:
        """Write into a part of the run and to disk; trouble is said once, and the next call tries anew."""
        try:
            with uninterrupted():
                if part not in self._writers:
                    self._writers[part] = self._open(part, step)
                write(self._writers[part])
                self._writers[part].flush()
        except Exception as error:
            if not self._is_silent:
                text = " ".join(str(error).split()) or type(error).__name__
                log.warning("TensorBoard takes no records in %s (%s); the run goes on.", self._run, text)
            self._is_silent = True
            self._close()

    def _open(self, part: str, step: int) -> Any:
        """Return a writer for which nothing lies at `step` or later."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self._run / part
        # Files are read in the order of their names, which hold the second they were begun in.
        while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.02)
        writer = SummaryWriter(str(folder), purge_step=step)
        if part == _SUMMARY:
            for title, texts in self._texts.items():
                rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in texts.items())
                writer.add_text(title, f"| name | value |\n|---|---|\n{rows}", 0)
        return writer

    def _close(self) -> None:
        for writer in self._writers.values():
            try:
                writer.close()
            except Exception as error:
                log.debug("closing event files: %s", error)  # what could not be written was said before
        self._writers = {}


def _cell(value: Any) -> str:
    """Return a value as a cell of a table in Markdown."""
    return str(value).replace("|", "\\|").replace("\n", " ")
