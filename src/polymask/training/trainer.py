"""The one training loop. It knows tasks only by the contract in `polymask.tasks.base`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from polymask.errors import UserError, nearest
from polymask.tasks.base import Batch, Task
from polymask.training.checkpoint import CheckpointFolder, RunRecord, load_weights, save_checkpoint
from polymask.training.devices import autocast, move_batch, select_device, select_precision
from polymask.training.distributed import Processes
from polymask.training.ema import WeightAverage
from polymask.training.optimizers import learning_rates
from polymask.training.progress import Progress, log_epoch
from polymask.training.schedulers import Schedule
from polymask.training.seeding import seed_everything
from polymask.training.state import TrainingState
from polymask.training.step_log import StepLog

log = logging.getLogger(__name__)

_CUDA_STEPS_BETWEEN_READS = 50


class MetricLog(Protocol):
    """Where the metrics of each epoch go."""

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Take the metrics of all epochs so far; the last entry is new."""


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
        patience: Stop after this many epochs without a better monitored metric, None for never.
        limit_batches: Batches per epoch at most, in training and evaluation; for quick looks.
        deterministic: Only deterministic CUDA kernels (slower).
        processes: This process among those of the run.
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
        deterministic: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.epochs, self.seed, self.patience = epochs, seed, patience
        self.device = select_device(device, local_rank=self.processes.local_rank)
        self.precision = select_precision(precision, self.device)
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.accumulate_batches, self.clip_norm, self.ema_decay = accumulate_batches, clip_norm, ema_decay
        self.limit_batches = limit_batches
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = not deterministic
            torch.set_float32_matmul_precision("high")
        torch.use_deterministic_algorithms(deterministic)

    def prepare(self, task: Task) -> Task:
        """Move a task to the device, in the memory layout of the run."""
        return task.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def num_batches(self, loader: Any) -> int:
        """Return how many batches of `loader` an epoch takes."""
        return min(len(loader), self.limit_batches or len(loader))

    def steps_per_epoch(self, loader: Any) -> int:
        """Return the number of optimisation steps per epoch."""
        return -(-self.num_batches(loader) // self.accumulate_batches)

    def fit(
        self,
        task: Task,
        train_loader: Any,
        val_loader: Any,
        *,
        optimizer: Optimizer,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        record: RunRecord,
        metric_log: MetricLog,
        resume_from: dict[str, Any] | None = None,
    ) -> TrainingState:
        """Train until all epochs are done or patience has run out.

        Args:
            task: The task, prepared; at the end it holds the weights of the last epoch.
            train_loader: Training batches; its `batch_sampler.start_epoch` is told the epoch.
            val_loader: Evaluation batches.
            optimizer: Over the task's parameters.
            schedule: Course of its learning rate.
            checkpoints: Where checkpoints go.
            record: What checkpoints say of the run.
            metric_log: Where metrics go.
            resume_from: Content of a last checkpoint, to go on from there.

        Returns:
            The state at the end.

        Raises:
            UserError: The loss is not finite, or the monitored metric does not exist.
        """
        loop = _Loop(self, task, optimizer, schedule)
        state = loop.restore(resume_from) if resume_from else TrainingState()
        if state.epoch == 0:
            self._check_monitor(task, val_loader)
        while not state.should_stop(epochs=self.epochs, patience=self.patience):
            rates = learning_rates(optimizer)
            metrics = {f"train/{k}": v for k, v in loop.train_epoch(state, train_loader).items()} | rates
            with loop.averaged_weights():
                evaluated = self.evaluate(task, val_loader, title="val")
            metrics |= {f"val/{name}": value for name, value in evaluated.items()}
            best = state.end_epoch(metrics, task.monitor, task.mode)
            schedule.end_epoch(metrics[task.monitor])
            if self.processes.is_main:
                # Best before last: were we stopped in between, the last checkpoint must not claim a best
                # value whose file was never written.
                if best:
                    save_checkpoint(checkpoints.best(record.run_name), record, loop.weights(state))
                save_checkpoint(checkpoints.last(record.run_name), record, loop.everything(state))
                # Logging last, so that a tracker in trouble cannot cost a checkpoint.
                metric_log.log_epoch(state.history)
                log_epoch(state.epoch, self.epochs, metrics, monitor=task.monitor, best=best)
        if self.processes.is_main and state.epoch < self.epochs:
            log.info("stopped: no better %s for %d epochs", task.monitor, state.epochs_since_best)
        return state

    @torch.inference_mode()
    def evaluate(
        self, task: Task, loader: Any, *, title: str, consume: Callable[[list[Any]], None] | None = None
    ) -> dict[str, float]:
        """Return the task's metrics over a loader.

        Args:
            task: The task; left in evaluation mode.
            loader: Evaluation batches.
            title: Name of the pass, for the progress bar.
            consume: Called with the predictions of each batch.
        """
        task.eval()
        task.reset_metrics()
        with Progress(title, enabled=self.processes.is_main).over(self.num_batches(loader)) as progress:
            for batch in self.batches(loader):
                with autocast(self.device, self.precision):
                    predictions = task.evaluation_step(batch)
                if consume is not None:
                    consume(predictions)
                progress.advance(len(predictions))
        return task.compute_metrics()

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch, on the device."""
        for batch in itertools.islice(loader, self.limit_batches):
            yield move_batch(batch, self.device)

    def _check_monitor(self, task: Task, loader: Any) -> None:
        """Evaluate one batch, so that a mistyped metric is found now and not after the first epoch."""
        first = list(itertools.islice(loader, 1))
        keys = [f"val/{name}" for name in self.evaluate(task, first, title="check")]
        if task.monitor not in keys:
            raise UserError(
                f"task.monitor={task.monitor!r} is not a metric of this task.{nearest(task.monitor, keys)} "
                f"Metrics: {', '.join(keys)}."
            )


class _Loop:
    """The mutable half of a fit: task, optimizer, schedule, gradient scaler, averaged weights."""

    def __init__(self, trainer: Trainer, task: Task, optimizer: Optimizer, schedule: Schedule) -> None:
        self.trainer, self.task, self.optimizer, self.schedule = trainer, task, optimizer, schedule
        self.scaler = torch.amp.GradScaler(trainer.device.type, enabled=trainer.precision == torch.float16)
        self.average = WeightAverage(task, decay=trainer.ema_decay) if trainer.ema_decay else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._forward: nn.Module = task
        self._trainable: list[bool] = []

    def train_epoch(self, state: TrainingState, loader: Any) -> dict[str, float]:
        """Optimise over one epoch; return the mean of each loss and the speed."""
        trainer, epoch = self.trainer, state.epoch
        seed_everything(trainer.seed, epoch, trainer.processes.rank)
        loader.batch_sampler.start_epoch(epoch)
        self.task.start_epoch(epoch)
        self._distribute()
        total = trainer.num_batches(loader)
        # On a CPU reading a loss is free, so there every loss is checked before it reaches the weights.
        steps = StepLog(every=_CUDA_STEPS_BETWEEN_READS if trainer.device.type == "cuda" else 1)
        progress = Progress(f"epoch {epoch + 1}", enabled=trainer.processes.is_main)
        with progress.over(total):
            for number, batch in enumerate(trainer.batches(loader)):
                parts = self._training_step(batch, number, total, steps)
                if (number + 1) % trainer.accumulate_batches == 0 or number + 1 == total:
                    self._optimizer_step()
                    state.step += 1
                if progress.advance(len(batch["ids"])):
                    progress.note(float(parts["loss"]))
        speed = progress.images_per_second * trainer.processes.world_size
        return {**steps.means(), "images_per_second": speed}

    def _training_step(self, batch: Batch, number: int, total: int, steps: StepLog) -> dict[str, Tensor]:
        accumulate = self.trainer.accumulate_batches
        group_start = number - number % accumulate
        group_size = min(accumulate, total - group_start)
        is_last = number + 1 == group_start + group_size
        with self._gradients_shared(is_last), autocast(self.trainer.device, self.trainer.precision):
            parts = self._forward(batch)
        steps.add(parts, batch["ids"])
        with self._gradients_shared(is_last):
            self.scaler.scale(parts["loss"] / group_size).backward()
        return parts

    def _optimizer_step(self) -> None:
        if self.trainer.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.trainer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.end_step()
        if self.average is not None:
            self.average.update()

    def _distribute(self) -> None:
        """Wrap the task for several processes, anew whenever other parameters are trained than before."""
        trainable = [p.requires_grad for p in self.task.parameters()]
        if self.trainer.processes.world_size > 1 and trainable != self._trainable:
            device_ids = [self.trainer.device] if self.trainer.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.task, device_ids=device_ids)
        self._trainable = trainable

    def _gradients_shared(self, is_last: bool) -> AbstractContextManager[None]:
        """Exchange gradients between processes only for the last batch before an optimisation step."""
        if isinstance(self._forward, DistributedDataParallel) and not is_last:
            return self._forward.no_sync()
        return nullcontext()

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Let the task hold the averaged weights inside the block, if the run keeps an average."""
        return self.average.applied() if self.average is not None else nullcontext()

    def weights(self, state: TrainingState) -> dict[str, Any]:
        """Return what a best checkpoint holds."""
        return {
            "model": self.task.state_dict(),
            "ema": self.average.state_dict() if self.average is not None else None,
            "training": state.state_dict(),
        }

    def everything(self, state: TrainingState) -> dict[str, Any]:
        """Return what a last checkpoint holds: enough to go on as if nothing had happened."""
        return {
            **self.weights(state),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, content: dict[str, Any]) -> TrainingState:
        """Take over the content of a last checkpoint."""
        load_weights(self.task, content["model"], source="the last checkpoint")
        if self.average is not None and content["ema"] is not None:
            self.average.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
        return TrainingState(**content["training"])
