"""A training epoch of polymask against a bare PyTorch loop, as a ratio measured in one process.

Both train the same model on the same uint8 tensors in memory, with the same batch size, precision, memory
layout, loss and optimizer; what differs is the trainer around them: contracts, logging, checks, schedule.
Rounds alternate between the two, so that a machine whose speed drifts slows both.

    python benchmarks/training_epoch.py [--encoder resnet18] [--size 128] [--batch 16] [--batches 12]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from polymask.families.multitask.loss import Loss
from polymask.families.multitask.task import Task
from polymask.losses.classification import CrossEntropyLoss as ClassEntropy
from polymask.losses.segmentation import CrossEntropyLoss, DiceLoss
from polymask.models.mask_class.smp import build_smp
from polymask.training.devices import autocast
from polymask.training.loop import TrainingLoop
from polymask.training.optimizers import adamw
from polymask.training.schedulers import cosine
from polymask.training.settings import Settings
from polymask.training.state import TrainingState
from polymask.training.trainer import Trainer

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


class Batches(list[dict[str, Any]]):
    """Batches in memory with the one method more that the trainer asks of a loader."""

    def start_epoch(self, epoch: int) -> None:
        """Do nothing: every epoch is the same."""


def build_task(encoder: str) -> Task:
    """Build the default task with random weights."""
    loss = Loss(
        segmentation={
            "dice": {"weight": 1.0, "term": DiceLoss()},
            "bce": {"weight": 1.0, "term": CrossEntropyLoss()},
        },
        classification={"ce": {"weight": 1.0, "term": ClassEntropy(label_smoothing=0.05)}},
    )
    model = build_smp(
        model="unet", encoder_name=encoder, encoder_weights=None, num_masks=1, num_classes=len(CLASSES)
    )
    return Task(model=model, loss=loss, num_classes=len(CLASSES), multiclass=False)


def make_batches(number: int, size: int, batch: int, device: torch.device) -> Batches:
    """Make random batches on the device."""
    return Batches(
        {
            "ids": [f"{index}-{row}" for row in range(batch)],
            "image": torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, device=device),
            "mask": torch.randint(2, (batch, size, size), dtype=torch.uint8, device=device),
            "label": torch.randint(len(CLASSES), (batch,), device=device),
            "mask_rows": None,
            "label_rows": None,
        }
        for index in range(number)
    )


def bare_epoch(task: Task, batches: Batches, settings: Settings) -> Callable[[], None]:
    """Return an epoch as one would write it by hand: forward, loss, backward, step, nothing else."""
    optimizer = adamw(task.parameter_groups(), learning_rate=1e-4, weight_decay=1e-2)
    mean = 255 * task.model.pixel_mean.view(1, 3, 1, 1)
    std = 255 * task.model.pixel_std.view(1, 3, 1, 1)

    def epoch() -> None:
        task.train()
        for batch in batches:
            images = (batch["image"].permute(0, 3, 1, 2).float() - mean) / std
            targets = {**batch, "mask": batch["mask"].long()}
            with autocast(settings.device, settings.precision):
                loss = task.loss(task.model(images), targets)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return epoch


def polymask_epoch(task: Task, batches: Batches, settings: Settings) -> Callable[[], None]:
    """Return an epoch of the trainer."""
    optimizer = adamw(task.parameter_groups(), learning_rate=1e-4, weight_decay=1e-2)
    schedule = cosine(optimizer, steps_per_epoch=len(batches), epochs=1000, mode="min")
    loop = TrainingLoop(settings, task, optimizer, schedule)
    return lambda: loop.train_epoch(TrainingState(), batches) and None


def seconds(epoch: Callable[[], None]) -> float:
    """Time one epoch, the device's queue included."""
    start = time.perf_counter()
    epoch()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=12, help="batches per epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()

    trainer = Trainer(epochs=1, precision=options.precision, clip_norm=1.0)
    task = trainer.prepare(build_task(options.encoder))
    batches = make_batches(options.batches, options.size, options.batch, trainer.settings.device)
    bare = bare_epoch(copy.deepcopy(task), batches, trainer.settings)
    ours = polymask_epoch(task, batches, trainer.settings)
    seconds(bare), seconds(ours)  # warm-up
    pairs = [(seconds(bare), seconds(ours)) for _ in range(options.rounds)]
    images = options.batches * options.batch
    for name, times in zip(("bare loop", "polymask"), zip(*pairs, strict=True), strict=True):
        print(
            f"{name:10} {images / statistics.median(times):8.1f} images/s (median of {options.rounds} epochs)"
        )
    ratios = [ours / bare for bare, ours in pairs]
    print(
        f"unet {options.encoder}, {options.size} px, batch {options.batch}, "
        f"{str(trainer.settings.precision).removeprefix('torch.')} on {trainer.settings.device}: "
        "epoch time polymask / bare = "
        f"{statistics.median(ratios):.3f} (pairs {min(ratios):.3f} to {max(ratios):.3f}; target <= 1.03)"
    )


if __name__ == "__main__":
    main()
