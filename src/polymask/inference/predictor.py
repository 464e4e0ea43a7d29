"""A trained model for use from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from polymask.errors import UserError
from polymask.factories import rebuild
from polymask.families.base import Application, Batch, Task
from polymask.training.checkpoint import CheckpointFolder, load_checkpoint
from polymask.training.devices import autocast, move_batch, select_device, select_precision
from polymask.utils.paths import resolve

Case = str | Path | np.ndarray
"""A file, or what would be read from it."""


class Predictor:
    """Predicts images, or whatever else is a case, with the task of a checkpoint.

    Args:
        task: The task, weights loaded.
        application: Applies it to cases; of the task's own family.
        run_name: Name of the run that trained it.
        path: The checkpoint file.
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
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.application, self.run_name, self.path = application, run_name, path
        self.device = select_device(device)
        self.precision = select_precision(precision, self.device)
        self.task = task.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @classmethod
    def from_checkpoint(
        cls,
        run_or_path: str | Path | None,
        *,
        options: Mapping[str, Any] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> Predictor:
        """Load a checkpoint.

        Args:
            run_or_path: Name of a run, path of a `.pt` file, or None for the newest run.
            options: Values of this inference in the place of those of training, by key of the configuration
                of `infer` or by its last part; None asks for nothing.
            device: See the class.
            precision: See the class.

        Raises:
            UserError: There is no such checkpoint, it cannot be read, or an option is of no use to it.
        """
        path = find_checkpoint(run_or_path)
        content = load_checkpoint(path)
        rebuilt = rebuild(content)
        chosen = _own_options(options or {}, rebuilt.family.options, path.stem)
        application = rebuilt.family.application(content["config"]["data"], chosen)
        if application is None:
            raise UserError(
                f"{path.stem} predicts nothing of new images; take another run, or start one from it with "
                f"init_from={path.stem}."
            )
        return cls(
            task=rebuilt.build_task(),
            application=application,
            run_name=content["run_name"],
            path=path,
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


def _own_options(options: Mapping[str, Any], keys: Sequence[str], run: str) -> dict[str, Any]:
    """Return the options that were given, by their whole keys.

    Raises:
        UserError: One is none of `keys`, those of the run's family.
    """
    whole_keys = {key.rpartition(".")[2]: key for key in keys}
    chosen = {}
    for name, value in options.items():
        last = name.rpartition(".")[2]
        if value is None:  # but false and 0 are values
            continue
        if last not in whole_keys:
            raise UserError(
                f"{name}={json.dumps(value)} is of no use to {run}, which takes {', '.join(sorted(keys))}; "
                "leave it out."
            )
        chosen[whole_keys[last]] = value
    return chosen


def find_checkpoint(run_or_path: str | Path | None) -> Path:
    """Return a checkpoint by the name of its run or by its path; for None that of the newest run.

    Raises:
        UserError: There is no such run.
    """
    if run_or_path is not None and str(run_or_path).endswith((".pt", ".pth")):
        return resolve(run_or_path)
    name = None if run_or_path is None else str(run_or_path)
    return CheckpointFolder(resolve("models/checkpoints")).find(name)
