"""A task of a few parameters and its data, for the tests of the trainer, also in other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymask.data.samplers import EvaluationBatches, TrainBatches
from polymask.families.base import Scorer, Task
from polymask.structures.samples import Rows
from polymask.training import schedulers
from polymask.training.checkpoint import CheckpointFolder, RunRecord
from polymask.training.checkpoint_content import SECTIONS
from polymask.training.optimizers import sgd
from polymask.training.schedulers import Schedule
from polymask.training.state import TrainingState
from polymask.training.trainer import Trainer

NUM_TRAIN, NUM_VAL, FEATURES = 24, 10, 4


class StubTask(Task):
    """Linear regression in double precision; the encoder is frozen before `unfreeze_at`.

    `course` replaces the validation loss, `bias_course` the mean error: one value per epoch.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        dropout: float = 0.0,
        batch_norm: bool = False,
        unfreeze_at: int = 0,
        course: Sequence[float] | None = None,
        bias_course: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(3) if batch_norm else nn.Identity()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 3), norm, nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(3, 1))
        self.double()
        self.monitor, self.mode = "val/loss", "min"
        self.unfreeze_at = unfreeze_at
        self.courses = {"loss": course, "bias": bias_course}
        self.epochs_begun: list[int] = []
        self.evaluated: list[dict[str, Tensor]] = []  # weights of each evaluation

    def start_epoch(self, epoch: int) -> None:
        self.epochs_begun.append(epoch)
        self.train()
        self.encoder.requires_grad_(epoch >= self.unfreeze_at)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"encoder": list(self.encoder.parameters()), "rest": list(self.head.parameters())}

    def errors(self, batch: dict[str, Any]) -> Tensor:
        """(B,) differences to the targets."""
        return self.head(self.encoder(batch["image"]))[:, 0] - batch["target"]

    def training_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        errors = self.errors(batch)
        return {"loss": errors.square().mean(), "loss_l1": errors.detach().abs().mean()}

    def evaluation_step(self, batch: dict[str, Any]) -> list[float]:
        errors = self.errors(batch)
        self.accumulator.update(batch["ids"], loss=errors.square(), bias=errors)
        return errors.tolist()

    def evaluation(self) -> Rows:
        self.evaluated.append({name: tensor.clone() for name, tensor in self.state_dict().items()})
        rows = super().evaluation()
        for name, course in self.courses.items():
            if course is not None and self.epochs_begun:
                rows[name] = np.full(len(rows["ids"]), course[self.epochs_begun[-1]])
        return rows

    def training_rows(self) -> Rows:
        return {"epoch_index": np.array([self.epochs_begun[-1]])}


class StubScorer(Scorer):
    """Means of whatever the rows hold besides losses."""

    headline = ("bias",)

    def metrics(self, rows: Rows, weights: Any = None, *, per_class: bool = False) -> dict[str, np.ndarray]:
        names = [name for name in rows if name != "ids" and not name.startswith("loss")]
        return {name: np.average(rows[name], axis=0, weights=weights)[None] for name in names}

    def scores(self, rows: Rows) -> dict[str, np.ndarray]:
        return {"closeness": -np.abs(rows["bias"])}

    def truth(self, rows: Rows, *, same_grid: bool) -> dict[str, np.ndarray]:
        return {}


def evaluate(trainer: Trainer, task: Task, loader: Any, **options: Any) -> dict[str, float]:
    """Return the metrics of an evaluation."""
    return StubScorer().point_estimates(trainer.evaluate(task, loader, **options))


class StubLoader:
    """Batches of numbers that depend on nothing but their keys (epoch, index, repeat).

    `alter(epoch, number, batch)` may change or refuse the batch of that number in an epoch.
    """

    def __init__(self, batch_sampler: Any, *, offset: int = 0, alter: Callable[..., None] | None = None):
        self.batch_sampler, self.offset, self.alter = batch_sampler, offset, alter

    def start_epoch(self, epoch: int) -> None:
        self.batch_sampler.start_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, keys in enumerate(self.batch_sampler):
            batch = make_batch(keys, self.offset)
            if self.alter is not None:
                self.alter(keys[0][0], number, batch)
            yield batch


def make_batch(keys: Sequence[tuple[int, int, int]], offset: int = 0) -> dict[str, Any]:
    """Features that an epoch changes a little, as augmentation does; targets that they nearly give."""
    images = []
    for epoch, index, _ in keys:
        fixed, noise = (torch.Generator().manual_seed(s) for s in (index + offset, 1000 * epoch + index))
        image = torch.randn(FEATURES, generator=fixed, dtype=torch.double)
        images.append(image + 0.05 * epoch * torch.randn(FEATURES, generator=noise, dtype=torch.double))
    image = torch.stack(images)
    target = image[:, 0] - 0.5 * image[:, 1] + 0.3
    return {"ids": [f"s{offset + index}" for _, index, _ in keys], "image": image, "target": target}


def train_loader(
    batch_size: int = 4,
    *,
    rank: int = 0,
    world_size: int = 1,
    batches_per_epoch: int | None = None,
    **options: Any,
) -> StubLoader:
    share = {"rank": rank, "world_size": world_size, "batches_per_epoch": batches_per_epoch}
    return StubLoader(TrainBatches(NUM_TRAIN, batch_size=batch_size, seed=0, **share), **options)


def val_loader(*, rank: int = 0, world_size: int = 1) -> StubLoader:
    share = {"rank": rank, "world_size": world_size}
    return StubLoader(EvaluationBatches(NUM_VAL, batch_size=3, **share), offset=500)


def make_trainer(**options: Any) -> Trainer:
    return Trainer(**({"epochs": 3, "device": "cpu", "precision": "fp32"} | options))


def make_record(name: str = "run") -> RunRecord:
    config: dict[str, Any] = {section: {} for section in SECTIONS}
    return RunRecord(run_name=name, config=config, groups={}, class_names=[], split="", split_sha256="")


class MetricList:
    """Keeps what a trainer logs."""

    def __init__(self) -> None:
        self.logged: list[list[dict[str, float]]] = []
        self.steps: list[dict[str, float]] = []

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        self.logged.append([dict(row) for row in history])

    def log_steps(self, points: list[dict[str, float]], epoch: int) -> None:
        self.steps += [dict(point) for point in points if point["epoch"] == epoch]


def fit(
    trainer: Trainer,
    task: StubTask,
    folder: Path,
    *,
    loader: StubLoader | None = None,
    build_schedule: Callable[..., Schedule] = schedulers.constant,
    build_optimizer: Callable[..., Any] = sgd,
    learning_rate: float = 0.05,
    **options: Any,
) -> TrainingState:
    """Train with all that the trainer asks for; `options` go to `Trainer.fit`."""
    processes = trainer.settings.processes
    own = {"rank": processes.rank, "world_size": processes.world_size}
    loader = loader or train_loader(**own, batches_per_epoch=trainer.settings.batches_per_epoch)
    optimizer = build_optimizer(task.parameter_groups(), learning_rate=learning_rate)
    schedule = build_schedule(
        optimizer,
        steps_per_epoch=trainer.settings.steps_per_epoch(loader),
        epochs=trainer.settings.epochs,
        mode=task.mode,
    )
    settings = {"checkpoints": CheckpointFolder(folder), "record": make_record, "metric_log": MetricList()}
    return trainer.fit(
        trainer.prepare(task),
        StubScorer(),
        loader,
        val_loader(**own),
        optimizer=optimizer,
        schedule=schedule,
        **(settings | options),
    )


def weights(task: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    """Compare nested containers bit for bit, apart from the speed."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            if key not in ("train/images_per_second", "epoch_seconds", "time"):
                assert_equal(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected or (found != found and expected != expected), where  # NaN is the same, too
