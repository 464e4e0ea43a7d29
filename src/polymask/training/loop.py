"""One epoch of optimisation: the only place with autocast, gradient scaling, accumulation and clipping."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from polymask.errors import UserError
from polymask.families.base import Batch, Task
from polymask.training.checkpoint import load_weights
from polymask.training.devices import autocast
from polymask.training.ema import WeightAverage
from polymask.training.optimizers import learning_rates
from polymask.training.progress import Progress
from polymask.training.schedulers import Schedule
from polymask.training.seeding import seed_everything
from polymask.training.settings import Settings, TrainLoader
from polymask.training.state import TrainingState
from polymask.training.step_log import StepLog, Window

_CUDA_STEPS_BETWEEN_READS = 50


class TrainingLoop:
    """All that changes while a task is fitted: task, optimizer, schedule, gradient scaler, averaged weights.

    Args:
        settings: How to train.
        task: The task, on their device.
        optimizer: Over the task's parameters.
        schedule: Course of its learning rate.
    """

    def __init__(self, settings: Settings, task: Task, optimizer: Optimizer, schedule: Schedule) -> None:
        self.settings, self.task, self.optimizer, self.schedule = settings, task, optimizer, schedule
        self.scaler = torch.amp.GradScaler(settings.device.type, enabled=settings.precision == torch.float16)
        self.average = WeightAverage(task, decay=settings.ema_decay) if settings.ema_decay else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._forward: nn.Module = task
        self._trainable: list[bool] = []

    def train_epoch(self, state: TrainingState, loader: TrainLoader) -> dict[str, float]:
        """Optimise over one epoch; return the mean of each loss and the speed."""
        settings, epoch = self.settings, state.epoch
        seed_everything(settings.seed, epoch, settings.processes.rank)
        loader.start_epoch(epoch)
        self.task.start_epoch(epoch)
        self._distribute()
        total = settings.num_batches(loader)
        # On a CPU reading a loss is free, so there every loss is checked before it reaches the weights.
        steps = StepLog(
            every=_CUDA_STEPS_BETWEEN_READS if settings.device.type == "cuda" else 1,
            window=Window(dict(state.window), state.window_batches),
        )
        progress = Progress(
            f"epoch {epoch + 1}",
            enabled=settings.processes.is_main,
            epochs_left=settings.epochs - epoch,
            epoch_seconds=state.epoch_seconds(),
        )
        with progress.over(total):
            for number, batch in enumerate(settings.batches(loader)):
                is_last = (number + 1) % settings.accumulate_batches == 0 or number + 1 == total
                point = self._point(state) if is_last else None
                parts = self._training_step(batch, number, total, steps, point)
                if is_last:
                    self._optimizer_step()
                    state.step += 1
                if progress.advance(len(batch["ids"])):
                    progress.note(parts["loss"].item())
        speed = progress.images_per_second * settings.processes.world_size
        return {**self._close(steps, state), "images_per_second": speed}

    def _point(self, state: TrainingState) -> dict[str, float] | None:
        """Return what a point of the step log says besides losses, None where the next step ends no point."""
        every, step = self.settings.log_every_steps, state.step + 1
        if every is None or step % every:
            return None
        # The rates are those of this step, before the schedule moves on.
        about = {"step": step, "epoch": state.epoch + 1, "time": time.time()}
        return about | {f"step/{name}": rate for name, rate in learning_rates(self.optimizer).items()}

    def _close(self, steps: StepLog, state: TrainingState) -> dict[str, float]:
        """Take over the points of an epoch; return its mean losses, as they all are over the processes."""
        own = [steps.means(), steps.window.sums, *(point.means for point in steps.points)]
        means, window, *points = self.settings.processes.means(own)
        is_logged = self.settings.log_every_steps is not None
        state.window, state.window_batches = (window, steps.window.batches) if is_logged else ({}, 0)
        state.points += [
            point.about | {f"step/train/{name}": value for name, value in losses.items()}
            for point, losses in zip(steps.points, points, strict=True)
        ]
        return means

    def _training_step(
        self, batch: Batch, number: int, total: int, steps: StepLog, point: dict[str, float] | None
    ) -> dict[str, Tensor]:
        accumulate = self.settings.accumulate_batches
        group_start = number - number % accumulate
        group_size = min(accumulate, total - group_start)
        is_last = number + 1 == group_start + group_size
        with self._gradients_shared(is_last), autocast(self.settings.device, self.settings.precision):
            parts: dict[str, Tensor] = self._forward(batch)
        steps.add(parts, batch["ids"], point=point)
        with self._gradients_shared(is_last):
            loss: Tensor = self.scaler.scale(parts["loss"] / group_size)
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        return parts

    def _optimizer_step(self) -> None:
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.end_step()
        if self.average is not None:
            self.average.update()

    def _distribute(self) -> None:
        """Wrap the task for several processes, anew whenever other parameters are trained than before."""
        trainable = [p.requires_grad for p in self.task.parameters()]
        if self.settings.processes.world_size > 1 and trainable != self._trainable:
            device_ids = [self.settings.device] if self.settings.device.type == "cuda" else None
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
        """Take over the content of a last checkpoint.

        Raises:
            UserError: It does not fit the run.
        """
        load_weights(self.task, content["model"], source="the last checkpoint")
        try:
            if self.average is not None and content["ema"] is not None:
                self.average.load_state_dict(content["ema"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            if content["scaler"]:  # empty when the run was interrupted on a device that needs no scaling
                self.scaler.load_state_dict(content["scaler"])
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"the training state of the last checkpoint does not fit its run ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); start a new run from its weights with init_from=."
            ) from error
        return TrainingState(**content["training"])
