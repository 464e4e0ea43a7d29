"""The one training loop. It knows tasks only by the contract in `polymask.families.base`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from polymask.errors import UserError, number, whole_number
from polymask.families.base import Prediction, Scorer, Task
from polymask.structures.samples import Rows
from polymask.training.checkpoint import (
    CheckpointFolder,
    RunRecord,
    decisions_as_stored,
    save_checkpoint,
)
from polymask.training.devices import autocast, select_device, select_precision
from polymask.training.distributed import Processes
from polymask.training.loop import TrainingLoop
from polymask.training.monitors import check_monitors
from polymask.training.optimizers import learning_rates
from polymask.training.progress import Progress, log_epoch
from polymask.training.schedulers import Schedule
from polymask.training.settings import Loader, Settings, TrainLoader
from polymask.training.state import TrainingState
from polymask.training.threads import use_threads

log = logging.getLogger(__name__)


class MetricLog(Protocol):
    """Where the metrics of each epoch go."""

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Take the metrics of all epochs so far; the last entry is new."""

    def log_steps(self, points: list[dict[str, float]], epoch: int) -> None:
        """Take the points of the step log so far; those of `epoch` (from 1) are new."""


class Previews(Protocol):
    """Draws predictions in the course of the training."""

    def consumer(self, epoch: int) -> Callable[[Sequence[Prediction]], None] | None:
        """Return what takes the validation's predictions of `epoch` (from 1), None to draw nothing in it."""

    def finish(self) -> None:
        """Write what was drawn, if anything was."""


class Trainer:
    """Optimises a task, evaluates it after every epoch, keeps the best and the last checkpoint.

    Args:
        epochs: Epochs to train at most.
        seed: Seed of dropout and the like.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        channels_last: Memory layout of convolutions; faster on tensor cores and on CPUs.
        accumulate_batches: Batches per optimisation step.
        clip_norm: Largest norm of the gradient, None for no clipping.
        ema_decay: Decay of the averaged weights that are evaluated and kept, None for no average.
        patience: Stop after this many epochs in which no monitored metric became better, None for never.
        limit_batches: Batches per epoch at most, in training and evaluation; for quick looks.
        steps_per_epoch: Optimisation steps of an epoch, which may then end anywhere in the training samples;
            None for epochs that are one pass over them. `limit_batches` makes such epochs shorter, too.
        log_every_steps: Optimisation steps between points of the step log, None for no such log.
        deterministic: Only deterministic CUDA kernels (slower).
        threads: Threads that compute an operation on a CPU, see `use_threads`.
        processes: This process among those of the run.

    Raises:
        UserError: An argument is out of range, or the device is not there.
    """

    def __init__(
        self,
        *,
        epochs: int,
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
        channels_last: bool = True,
        accumulate_batches: int = 1,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        patience: int | None = None,
        limit_batches: int | None = None,
        steps_per_epoch: int | None = None,
        log_every_steps: int | None = None,
        deterministic: bool = False,
        threads: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        processes = processes or Processes()
        chosen = select_device(device, local_rank=processes.local_rank)
        self.settings = Settings(
            epochs=whole_number("epochs", epochs, least=1),
            seed=whole_number("seed", seed, least=0),
            device=chosen,
            precision=select_precision(precision, chosen),
            memory_format=torch.channels_last if channels_last else torch.preserve_format,
            accumulate_batches=whole_number("trainer.accumulate_batches", accumulate_batches, least=1),
            clip_norm=_clip_norm(clip_norm),
            ema_decay=_ema_decay(ema_decay),
            patience=_at_least_one("trainer.patience", patience),
            limit_batches=_at_least_one("trainer.limit_batches", limit_batches),
            processes=processes,
            batches_per_epoch=_batches_per_epoch(steps_per_epoch, accumulate_batches, limit_batches),
            log_every_steps=_at_least_one("trainer.log_every_steps", log_every_steps),
        )
        self._deterministic = deterministic
        if chosen.type == "cuda":
            torch.set_float32_matmul_precision("high")
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else its products are refused
        # The same switch as use_deterministic_algorithms, which would also import the compiler (two seconds).
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        self._given_threads, self.threads = threads, use_threads(threads)

    def prepare(self, task: Task) -> Task:
        """Move a task to the device, in the memory layout of the run."""
        own = self.settings
        # Tried out anew for every shape, kernels would cost a detector far more than the best one saves.
        torch.backends.cudnn.benchmark = task.has_fixed_shapes and not self._deterministic
        task.to(own.device, memory_format=own.memory_format)  # type: ignore[call-overload]
        return task

    def fit(
        self,
        task: Task,
        scorer: Scorer,
        train_loader: TrainLoader,
        val_loader: Loader,
        *,
        optimizer: Optimizer,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        record: Callable[[], RunRecord],
        metric_log: MetricLog,
        monitors: Mapping[str, str] | None = None,
        decisions: Callable[[Rows], Rows] = lambda rows: {},
        previews: Previews | None = None,
        resume_from: dict[str, Any] | None = None,
    ) -> TrainingState:
        """Train until all epochs are done or patience has run out.

        Args:
            task: The task, prepared; at the end it holds the weights of the last epoch.
            scorer: Computes the metrics of its rows.
            train_loader: Training batches, which are told each epoch.
            val_loader: Evaluation batches.
            optimizer: Over the task's parameters.
            schedule: Course of its learning rate.
            checkpoints: Where checkpoints go.
            record: Returns what checkpoints say of the run.
            metric_log: Where metrics go.
            monitors: Key to `min` or `max` of metrics with best checkpoints beside that by `task.monitor`.
            decisions: Returns what a best checkpoint keeps of its validation rows.
            previews: Draws validation samples; None to draw nothing.
            resume_from: Content of a last checkpoint, to go on from there.

        Returns:
            The state at the end.

        Raises:
            UserError: The loss is not finite, or the monitored metric does not exist or was never a number.
        """
        settings, is_main = self.settings, self.settings.processes.is_main
        monitors = dict(monitors or {})
        watched = [task.monitor, *monitors]
        loop = TrainingLoop(settings, task, optimizer, schedule)
        state = loop.restore(resume_from) if resume_from else TrainingState()
        if state.threads:
            self.threads = use_threads(self._given_threads, before=state.threads)
        state.threads = self.threads
        if state.epoch == 0:
            self._check_monitors(task, scorer, val_loader, monitors)
        elif is_main:
            self._say_how_it_goes_on(state)
            self._log(metric_log, state)  # the run may have been killed between saving and logging
        while not state.should_stop(epochs=settings.epochs, patience=settings.patience):
            begun = time.perf_counter()
            rates = learning_rates(optimizer)
            trained = loop.train_epoch(state, train_loader)
            speed = trained.pop("images_per_second")
            trained |= _training_metrics(task, scorer) | {"images_per_second": speed}
            metrics = {f"train/{name}": value for name, value in trained.items()} | rates
            with loop.averaged_weights():
                settings.processes.share_buffers(task)
                draw = previews.consumer(state.epoch + 1) if previews is not None else None
                rows = self.evaluate(task, val_loader, title="val", consume=draw)
            metrics |= _of_val(scorer, rows)
            metrics["epoch_seconds"] = time.perf_counter() - begun
            best = state.end_epoch(metrics, task.monitor, task.mode, monitors)
            schedule.end_epoch(metrics[task.monitor])
            if is_main:
                # Best before last: were we stopped in between, the last checkpoint must not claim a best
                # value whose file was never written.
                now = record()
                kept = {"decisions": decisions_as_stored(decisions(rows))} if best else {}
                for key in best:
                    path = checkpoints.best(now.run_name, None if key == task.monitor else key)
                    save_checkpoint(path, now, loop.weights(state) | kept)
                save_checkpoint(checkpoints.last(now.run_name), now, loop.everything(state))
                # Logging last, so that a tracker in trouble cannot cost a checkpoint.
                self._log(metric_log, state)
                if previews is not None:
                    previews.finish()
                left = state.epoch_seconds() * (settings.epochs - state.epoch)
                log_epoch(
                    state.epoch,
                    settings.epochs,
                    metrics,
                    monitors=watched,
                    headline=scorer.headline,
                    best=best,
                    without=state.epochs_since_best,
                    seconds_left=left,
                )
        self._check_bests(state, watched)
        return state

    @torch.inference_mode()
    def evaluate(
        self,
        task: Task,
        loader: Loader,
        *,
        title: str,
        consume: Callable[[Sequence[Prediction]], None] | None = None,
    ) -> Rows:
        """Return the task's rows over a loader.

        Args:
            task: The task; left in evaluation mode.
            loader: Evaluation batches.
            title: Name of the pass, for the progress bar.
            consume: Called with the predictions of each batch.
        """
        own = self.settings
        task.eval()
        task.reset()
        with Progress(title, enabled=own.processes.is_main).over(own.num_batches(loader)) as progress:
            for batch in own.batches(loader):
                with autocast(own.device, own.precision):
                    predictions = task.evaluation_step(batch)
                if consume is not None:
                    consume(predictions)
                progress.advance(len(predictions))
        return task.evaluation()

    def _log(self, metric_log: MetricLog, state: TrainingState) -> None:
        metric_log.log_epoch(state.history)
        if self.settings.log_every_steps is not None:
            metric_log.log_steps(state.points, state.epoch)

    def _say_how_it_goes_on(self, state: TrainingState) -> None:
        epochs = self.settings.epochs
        if state.epoch >= epochs:
            log.info("all %d epochs are done; epochs=%d trains longer", state.epoch, 2 * state.epoch)
        elif state.should_stop(epochs=epochs, patience=self.settings.patience):
            log.info(
                "stopped after epoch %d, %d without a better value; trainer.patience=%d goes on",
                state.epoch,
                state.epochs_since_best,
                state.epochs_since_best + 10,
            )
        else:
            log.info("going on after epoch %d of %d", state.epoch, epochs)

    def _check_monitors(
        self, task: Task, scorer: Scorer, loader: Loader, monitors: Mapping[str, str]
    ) -> None:
        def measure(batches: Any) -> dict[str, float]:
            return _of_val(scorer, self.evaluate(task, batches, title="check"))

        warn = self.settings.processes.is_main
        check_monitors(task.monitor, list(monitors), measure, loader, warn=warn)

    def _check_bests(self, state: TrainingState, watched: Sequence[str]) -> None:
        """Say at the end why it came early, and which metrics, that of the run first, have no best epoch."""
        is_main, (monitor, *others) = self.settings.processes.is_main, watched
        if is_main and state.epoch < self.settings.epochs:
            log.info("stopped: no better %s for %d epochs", " or ".join(watched), state.epochs_since_best)
        if state.best_value is None:
            raise UserError(
                f"task.monitor={monitor!r} was not a number in any epoch, so no epoch is the best; "
                "monitor another metric, or give the validation subset samples of every class."
            )
        for key in others:
            if is_main and key not in state.best_values:
                log.warning("task.monitors=[%s] was not a number in any epoch: it has no checkpoint", key)


def _of_val(scorer: Scorer, rows: Rows) -> dict[str, float]:
    """Return the metrics of validation rows by the keys under which they are logged and monitored."""
    return {f"val/{name}": value for name, value in scorer.point_estimates(rows).items()}


def _training_metrics(task: Task, scorer: Scorer) -> dict[str, float]:
    """Return the metrics of the epoch's training batches, where the task keeps their rows."""
    rows = task.training_rows()
    return {name: float(values[0]) for name, values in scorer.metrics(rows).items()} if rows else {}


def _at_least_one(key: str, value: int | None) -> int | None:
    return None if value is None else whole_number(key, value, least=1)


def _batches_per_epoch(steps: int | None, accumulate_batches: int, limit_batches: int | None) -> int | None:
    """Return the batches of an epoch that is so many steps, None for a pass over the samples."""
    if steps is None:
        return None
    batches = whole_number("trainer.steps_per_epoch", steps, least=1) * accumulate_batches
    return min(batches, limit_batches or batches)


def _clip_norm(value: float | None) -> float | None:
    if value is None:
        return None
    return number("trainer.clip_norm", value, above=0, note="or null: no clipping")


def _ema_decay(value: float | None) -> float | None:
    if value is None:
        return None
    return number("trainer.ema_decay", value, above=0, below=1, note="such as 0.999, or null: no average")
