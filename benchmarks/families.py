"""A short training of each family: speed, memory of the device, and how long it waits for data.

Each family trains on drawn lesions or nuclei, from random weights, in each number format of the device.
From its first batch on, an epoch of the trainer with its loader is timed against the same epoch with its
batches on the device already (the difference is the time spent waiting for data), and that one against a
bare loop of forward, backward and step over the same batches (the difference is the trainer's own work).

    python benchmarks/families.py [--families lesions,volumes] [--precisions fp16,bf16] [--small]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from polymask.cli import register_resolvers
from polymask.data.demo.reader import write_demo_dataset
from polymask.factories import build_data, build_optimizer, build_schedule, build_trainer
from polymask.families.base import Batch
from polymask.run_parts import build_family_and_task
from polymask.training.checkpoint import CheckpointFolder
from polymask.training.devices import autocast
from polymask.training.loop import TrainingLoop
from polymask.training.settings import Settings
from polymask.training.state import TrainingState
from polymask.utils import paths

LESIONS = ["data=ham10000", "data.data_dir=lesions", "data.image_size=256"]
OBJECTS = ["data=lesion_objects", "data.data_dir=lesions", "model.weights=null", "model.min_size=512"]
FAMILIES = {
    "lesions": [*LESIONS, "model.encoder_weights=null", "data.batch_size=32"],
    "transfer": ["experiment=isic2016_finetune", *LESIONS, "model.encoder_weights=null"],
    "unet": ["experiment=unet_family_unet", *LESIONS, "data.batch_size=16"],
    "mask_rcnn": ["experiment=mask_rcnn", *OBJECTS, "data.batch_size=4"],
    "vit_mask_rcnn": ["experiment=lesions_vit_mask_rcnn", *OBJECTS],
    "pretraining": ["experiment=lesions_mae", "data.data_dir=lesions/images"],
    "volumes": [
        *("experiment=cells", "data=ctc_demo", "model.weights=null", "model.min_size=512"),
        *("data.reader.shape=[24,256,256]", "data.reader.num_objects=40", "data.reader.num_frames=6"),
    ],
}
SMALL_IMAGES = ["data.image_size=64", "data.batch_size=8"]
SMALL_DETECTOR = ["model.min_size=64", "model.max_size=96", "model.channels=32", "model.hidden_size=32"]
SMALL = {
    "lesions": [*SMALL_IMAGES, "model.encoder_name=resnet18"],
    "transfer": SMALL_IMAGES,
    "unet": [*SMALL_IMAGES, "model.channels=[8,8,16,16,32]"],
    "mask_rcnn": [*SMALL_DETECTOR, "model.backbone=resnet18"],
    "vit_mask_rcnn": [*SMALL_DETECTOR, "model.backbone=vit_tiny_patch16_224"],
    "pretraining": ["model.size=tiny", "data.batch_size=8"],
    "volumes": [
        *(*SMALL_DETECTOR, "model.backbone=resnet18"),
        *("data.reader.shape=[8,64,64]", "data.reader.num_objects=5"),
    ],
}


class Timed:
    """A loader that notes how long the first batch of an epoch takes, which no other can hide."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.first = loader, 0.0

    def __len__(self) -> int:
        return len(self.loader)

    def start_epoch(self, epoch: int) -> None:
        """Draw the samples of an epoch."""
        self.loader.start_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        start = time.perf_counter()
        for number, batch in enumerate(self.loader):
            if number == 0:
                self.first = time.perf_counter() - start
            yield batch


class Kept(list[Batch]):
    """Batches on the device, with the one method more that the trainer asks of a loader."""

    def start_epoch(self, epoch: int) -> None:
        """Do nothing: every epoch is the same."""


def configuration(overrides: list[str]) -> DictConfig:
    """Return the configuration of a training."""
    with initialize_config_dir(str(paths.CONFIG_DIR), version_base="1.3"):
        return compose("config", overrides=[*overrides, "run_name=bench", "tracker=none"])


def bare_epoch(loop: TrainingLoop, batches: Kept, settings: Settings) -> None:
    """Train over batches as one would write it by hand."""
    for batch in batches:
        with autocast(settings.device, settings.precision):
            loss = loop.task.training_step(batch)["loss"]
        loop.scaler.scale(loss).backward()
        loop.scaler.unscale_(loop.optimizer)
        torch.nn.utils.clip_grad_norm_(loop.parameters, 1.0)
        loop.scaler.step(loop.optimizer)
        loop.scaler.update()
        loop.optimizer.zero_grad(set_to_none=True)


def seconds(epoch: Callable[[], Any]) -> float:
    """Time one epoch, the device's queue included."""
    synchronize()
    start = time.perf_counter()
    epoch()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(overrides: list[str], *, batches: int, rounds: int) -> str:
    """Return a table's cells for one family: images/s, memory, waiting, the trainer's own time, the loss."""
    cfg = configuration(
        [*overrides, f"trainer.limit_batches={batches}", f"trainer.steps_per_epoch={batches}"]
    )
    trainer = build_trainer(cfg)
    settings, data = trainer.settings, build_data(cfg)
    _, task = build_family_and_task(cfg, data, None, CheckpointFolder(Path("checkpoints")))
    trainer.prepare(task)
    loader = Timed(data.train_loader(batches_per_epoch=settings.batches_per_epoch))
    optimizer = build_optimizer(cfg, task)
    schedule = build_schedule(cfg, optimizer, steps_per_epoch=batches, mode=task.mode)
    loop, state = TrainingLoop(settings, task, optimizer, schedule), TrainingState()
    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = loop.train_epoch(state, loader)["loss"]  # fills the cache, too
    kept = Kept(settings.batches(loader))
    images = sum(len(batch["ids"]) for batch in kept)
    seconds(lambda: bare_epoch(loop, kept, settings))
    times = [
        (
            seconds(lambda: loop.train_epoch(state, loader)) - loader.first,
            seconds(lambda: loop.train_epoch(state, kept)),
            seconds(lambda: bare_epoch(loop, kept, settings)),
        )
        for _ in range(rounds)
    ]
    last = loop.train_epoch(state, kept)["loss"]
    whole = statistics.median(each for each, _, _ in times)
    waiting = statistics.median(1 - second / first for first, second, _ in times)
    memory = torch.cuda.max_memory_allocated() / 2**30 if settings.device.type == "cuda" else float("nan")
    own = statistics.median(second / third for _, second, third in times)
    return (
        f"{images / batches:.0f} | {1000 * whole / batches:.1f} | {images / whole:.0f} | {memory:.2f} | "
        f"{1000 * loader.first:.0f} | {max(0.0, waiting):.1%} | {own:.3f} | {first:.3f} to {last:.3f}"
    )


def main() -> None:
    """Measure and print; exit status 1 where a family could not be trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_cuda = torch.cuda.is_available()
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--precisions", default="fp16,bf16" if on_cuda else "auto")
    parser.add_argument("--batches", type=int, default=24 if on_cuda else 3, help="steps of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1) if on_cuda else 0)
    parser.add_argument("--small", action="store_true", default=not on_cuda, help="small images and networks")
    options = parser.parse_args()

    register_resolvers()
    failed = False
    columns = ["family", "precision", "batch", "ms/step", "images/s", "GiB", "first batch, ms", "waiting"]
    columns += ["trainer / bare", "loss"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths.PROJECT_ROOT = Path(folder)
        size = (75, 100) if options.small else (450, 600)
        write_demo_dataset(paths.resolve("lesions"), num_images=140, size=size)
        for name in options.families.split(","):
            for precision in options.precisions.split(","):
                words = [*FAMILIES[name], *(SMALL[name] if options.small else [])]
                words += [f"trainer.precision={precision}", f"data.num_workers={options.workers}"]
                try:
                    cells = measure(words, batches=options.batches, rounds=options.rounds)
                except Exception:
                    traceback.print_exc()
                    cells, failed = "failed", True
                print(f"| {name} | {precision} | {cells} |", flush=True)
                if on_cuda:
                    torch.cuda.empty_cache()
    sys.exit(failed)


if __name__ == "__main__":
    main()
