"""One epoch of optimisation: the only place with autocast, gradient scaling, accumulation and clipping."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from polymask.errors import UserError
from polymask.families.base import Batch, Task
from polymask.training.checkpoint import load_weights
from polymask.training.devices import autocast
from polymask.training.ema import WeightAverage
from polymask.training.progress import Progress
from polymask.training.schedulers import Schedule
from polymask.training.seeding import seed_everything
from polymask.training.state import TrainingState
from polymask.training.step_log import StepLog

if TYPE_CHECKING:
    from polymask.training.trainer import Trainer

_CUDA_STEPS_BETWEEN_READS = 50


class TrainingLoop:
    """All that changes while a task is fitted: task, optimizer, schedule, gradient scaler, averaged weights.

    Args:
        trainer: The settings.
        task: The task, on the trainer's device.
        optimizer: Over the task's parameters.
        schedule: Course of its learning rate.
    """

    def __init__(self, trainer: Trainer, task: Task, optimizer: Optimizer, schedule: Schedule) -> None:
        self.trainer, self.task, self.optimizer, self.schedule = trainer, task, optimizer, schedule
        self.scaler = torch.amp.GradScaler(trainer.device.type, enabled=trainer.precision == torch.float16)
        self.average = WeightAverage(task, decay=trainer.ema_decay) if trainer.ema_decay else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._forward: nn.Module = task
        self._trainable: list[bool] = []

    def train_epoch(self, state: TrainingState, loader: Any) -> dict[str, float]:
        """Optimise over one epoch; return the mean of each loss, the task's metrics and the speed."""
        trainer, epoch = self.trainer, state.epoch
        seed_everything(trainer.seed, epoch, trainer.processes.rank)
        loader.batch_sampler.start_epoch(epoch)
        self.task.start_epoch(epoch)
        self._distribute()
        total = trainer.num_batches(loader)
        # On a CPU reading a loss is free, so there every loss is checked before it reaches the weights.
        steps = StepLog(every=_CUDA_STEPS_BETWEEN_READS if trainer.device.type == "cuda" else 1)
        progress = Progress(
            f"epoch {epoch + 1}",
            enabled=trainer.processes.is_main,
            epochs_left=trainer.epochs - epoch,
            epoch_seconds=state.epoch_seconds(),
        )
        with progress.over(total):
            for number, batch in enumerate(trainer.batches(loader)):
                parts = self._training_step(batch, number, total, steps)
                if (number + 1) % trainer.accumulate_batches == 0 or number + 1 == total:
                    self._optimizer_step()
                    state.step += 1
                if progress.advance(len(batch["ids"])):
                    progress.note(parts["loss"].item())
        speed = progress.images_per_second * trainer.processes.world_size
        means = trainer.processes.mean(steps.means())
        return {**means, **self.task.training_metrics(), "images_per_second": speed}

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
