"""A trained model for use from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from polymask.families.base import Application, Batch, Task
from polymask.inference.ensemble import EnsembleApplication, EnsembleTask
from polymask.inference.members import Member, Runs, ensemble_name, find_checkpoints, read_members
from polymask.training.checkpoint import CheckpointFolder
from polymask.training.devices import autocast, move_batch, select_device, select_precision
from polymask.utils.paths import resolve

Case = str | Path | np.ndarray
"""A file, or what would be read from it."""


class Predictor:
    """Predicts images, or whatever else is a case, with the task of a checkpoint.

    Args:
        task: The task, weights loaded.
        application: Applies it to cases; of the task's own family.
        run_name: Name of the run that trained it, or of the ensemble.
        path: The checkpoint file.
        other_paths: Those of the other members of an ensemble.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
    """

    def __init__(
        self,
        *,
        task: Task,
        application: Application,
        run_name: str,
        path: Path,
        other_paths: Sequence[Path] = (),
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.application, self.run_name, self.path = application, run_name, path
        self.paths = [path, *other_paths]
        self.device = select_device(device)
        self.precision = select_precision(precision, self.device)
        self.task = task.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @classmethod
    def from_checkpoint(
        cls,
        run_or_path: Runs | None,
        *,
        options: Mapping[str, Any] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> Predictor:
        """Load a checkpoint, or several as one ensemble.

        Args:
            run_or_path: Name of a run, path of a `.pt` file, a pattern, or several of them; None for the
                newest run.
            options: Values of this inference in the place of those of training, by key of the configuration
                of `infer` or by its last part; None asks for nothing.
            device: See the class.
            precision: See the class.

        Raises:
            UserError: There is no such checkpoint, it cannot be read, an option is of no use to it, or
                several predict different things.
        """
        folder = CheckpointFolder(resolve("models/checkpoints"))
        members = read_members(find_checkpoints(run_or_path, folder), options or {})
        return cls.of_members(members, device=device, precision=precision)

    @classmethod
    def of_members(
        cls, members: Sequence[Member], *, device: str = "auto", precision: str = "auto"
    ) -> Predictor:
        """Return what predicts with all members together, with a single one as that run does."""
        tasks = [member.run.build_task() for member in members]
        applications = [member.application for member in members if member.application is not None]
        task, application, name = tasks[0], applications[0], members[0].run_name
        if len(members) > 1:
            application = EnsembleApplication(applications)
            task = EnsembleTask(tasks, application)
            name = ensemble_name([member.run_name for member in members])
        first, *others = [member.path for member in members]
        return cls(
            task=task,
            application=application,
            run_name=name,
            path=first,
            other_paths=others,
            device=device,
            precision=precision,
        )

    def __repr__(self) -> str:
        precision = str(self.precision).removeprefix("torch.")
        return (
            f"Predictor(run={self.run_name!r}, application={self.application}, device={self.device}, "
            f"precision={precision})"
        )

    @overload
    def predict(self, cases: Case, *, batch_size: int | None = None) -> Any: ...

    @overload
    def predict(self, cases: Sequence[Case], *, batch_size: int | None = None) -> list[Any]: ...

    def predict(self, cases: Case | Sequence[Case], *, batch_size: int | None = None) -> Any:
        """Predict images or volumes of any size.

        Args:
            cases: One or several paths, or arrays (H, W, 3) RGB or (H, W) grey, or (Z, H, W) for a model of
                volumes; of uint8, or of another number type for a model that was trained on such images.
            batch_size: Cases per pass through the network, None for that of evaluations in training.

        Returns:
            The result of the task, with masks at the case's own size; of a list one per case.

        Raises:
            UserError: A file cannot be read, or an array is no such case.
        """
        if isinstance(cases, str | Path | np.ndarray):
            return self.predict([cases])[0]
        batch_size = batch_size or self.application.batch_size
        results = []
        for start in range(0, len(cases), batch_size):
            ids = [str(number) for number in range(start, min(start + batch_size, len(cases)))]
            # Of which only one at a time is in memory at its own size, where the network takes a smaller one.
            opened = [self.application.read(case) for case in cases[start : start + batch_size]]
            batch = self.application.collate(ids, [network_input for network_input, _ in opened])
            for prediction, (_, case) in zip(self.predict_batch(batch), opened, strict=True):
                results.append(self.application.result(prediction, case))
        return results

    @torch.inference_mode()
    def predict_batch(self, batch: Batch) -> Sequence[Any]:
        """Return the raw predictions of what the application's `collate` made."""
        with autocast(self.device, self.precision):
            return self.application.predict(self.task, move_batch(batch, self.device))
