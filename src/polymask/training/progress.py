"""What a person sees while a run trains: a bar on a terminal, one line per epoch everywhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from polymask.utils.text_tables import duration

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_UPDATES = 0.5


class Progress:
    """Counts the images of one pass over a loader and shows a bar when standard error is a terminal.

    Args:
        title: What stands before the bar.
        enabled: False for silence (all processes but the main one).
        epochs_left: Epochs of the run that are left, this one included; 0 for a pass that is no epoch.
        epoch_seconds: How long an epoch takes with its validation, 0 when none is done yet.
    """

    def __init__(
        self, title: str, *, enabled: bool = True, epochs_left: int = 0, epoch_seconds: float = 0.0
    ) -> None:
        self.title = title
        self._epochs_left, self._epoch_seconds = epochs_left, epoch_seconds
        self._batches = self._total = 0
        self.images = 0
        self._show = enabled and sys.stderr.isatty()
        self._start = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None
        self._next_update = 0.0

    @contextmanager
    def over(self, total: int) -> Iterator[Progress]:
        """Show the bar for `total` batches inside the block."""
        self._total = total
        if not self._show:
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True), transient=True) as self._bar:
            self._task = self._bar.add_task(self.title, total=total, note="")
            yield self

    def advance(self, images: int) -> bool:
        """Count one batch; return whether it is time to show the loss (reading it waits for the device)."""
        self.images += images
        self._batches += 1
        if self._bar is None:
            return False
        self._bar.advance(self._task)
        now = time.perf_counter()
        if now < self._next_update:
            return False
        self._next_update = now + _SECONDS_BETWEEN_UPDATES
        return True

    def note(self, loss: float) -> None:
        """Show the loss and the speed beside the bar."""
        text = f"loss {loss:.4f}  {self.images_per_second:.0f} images/s"
        if self._epochs_left:
            text += f"  all {duration(self.seconds_left)}, epoch"  # short: a terminal has 80 columns
        self._bar.update(self._task, note=text)

    @property
    def seconds_left(self) -> float:
        """Return the time until all epochs are done, as far as the finished ones and this one tell."""
        elapsed = time.perf_counter() - self._start
        seconds = self._epoch_seconds or elapsed * self._total / max(self._batches, 1)
        return max(seconds * self._epochs_left - elapsed, 0.0)

    @property
    def images_per_second(self) -> float:
        """Images per second since the start of the pass, over the images of this process."""
        return self.images / max(time.perf_counter() - self._start, 1e-9)


def log_epoch(
    epoch: int,
    epochs: int,
    metrics: dict[str, float],
    *,
    monitors: Sequence[str],
    headline: Sequence[str] = (),
    best: Sequence[str],
    without: int = 0,
    seconds_left: float = 0.0,
) -> None:
    """Log the one line of an epoch: losses, monitored metrics, two more, speed, time left, what is the best.

    Args:
        epoch: Its number, from 1.
        epochs: Epochs of the run.
        metrics: What was measured.
        monitors: Keys of the monitored metrics.
        headline: Names of metrics of which the first two are shown.
        best: The monitored ones that are better than ever.
        without: Epochs in which none of several was.
        seconds_left: Until all epochs are done.
    """
    more = (f"val/{name}" for name in headline[:2])
    shown = ("train/loss", "val/loss", *monitors, *more, "learning_rate")
    parts = [f"{key} {metrics[key]:.4g}" for key in dict.fromkeys(shown) if key in metrics]
    speed = f"{metrics['train/images_per_second']:.0f} images/s"
    left = f"  {duration(seconds_left)} left" if epoch < epochs else ""
    end = "  best" if best else ""
    if len(monitors) > 1:
        count = "1 epoch" if without == 1 else f"{without} epochs"
        end = f"  best {', '.join(best)}" if best else f"  {count} without improvement"
    log.info("epoch %d/%d  %s  %s%s%s", epoch, epochs, "  ".join(parts), speed, left, end)
