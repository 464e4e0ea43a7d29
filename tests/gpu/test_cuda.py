"""Whole runs on a CUDA device, held against the same on the CPU and against uninterrupted ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lesion_files import write_lesions
from small_mae import SMALL_MAE
from volume_runs import TINY

import polymask
from polymask import cli
from polymask.factories import build_optimizer, build_schedule, build_trainer, rebuild
from polymask.training.checkpoint import load_checkpoint
from polymask.training.loop import TrainingLoop
from polymask.training.state import TrainingState

pytestmark = pytest.mark.gpu

CUDA = "cuda"
LESIONS = ["data.data_dir=lesions", "data.classes=[MEL,NV,BKL]", "data.image_size=64", "data.batch_size=4"]
DETECTOR = [
    *("data=lesion_objects", "data.data_dir=lesions", "data.batch_size=2", "model.weights=null"),
    *("model.min_size=64", "model.max_size=96", "model.channels=32", "model.hidden_size=16"),
    *("model.boxes_per_image=32", "model.detections_per_image=10", "model.score_threshold=0.01"),
]
MULTITASK = [
    *LESIONS,
    "model.encoder_name=resnet18",
    "model.encoder_weights=null",
    "model.head.dropout=0.3",
    "scheduler=none",
]
PRETRAINING = [
    *("experiment=lesions_mae", "data.data_dir=lesions/images", "data.image_size=40", "data.batch_size=4"),
    *(f"model.{name}={value}" for name, value in SMALL_MAE.items()),
    *("scheduler=none", "~scheduler.warmup_share", "~scheduler.final_factor"),
]
FAMILIES = {
    "multitask": MULTITASK,
    "mixed": [*MULTITASK, "task.mixing.mixup=0.4", "task.mixing.cutmix=0.4"],
    "transfer": ["experiment=isic2016_finetune", "data=ham10000", *LESIONS, "model.encoder_weights=null"],
    "unet": ["experiment=unet_family_attention", "data=ham10000", *LESIONS, "model.channels=[8,8,16,16,32]"],
    "instances": ["experiment=mask_rcnn", *DETECTOR, "model.backbone=test_efficientnet"],
    "vit": ["experiment=lesions_vit_mask_rcnn", *DETECTOR, "model.backbone=test_vit", "model.taps=[1,3,4,6]"],
    "pretraining": PRETRAINING,
    "volumes": [
        *(*TINY, "data=ctc_demo", "data.reader.shape=[8,48,48]", "data.reader.num_objects=4"),
        *("data.reader.num_frames=3", "model.fusion.name=level_conv"),
    ],
}
SMALL = [
    *("data.num_workers=0", "data.cache_dir=null", "transforms=none", "tracker=none"),
    *("trainer.steps_per_epoch=4", "trainer.patience=null", "preview_epochs=null", "run_name=run"),
]


@pytest.fixture
def root(project: Path) -> Path:
    write_lesions(project / "lesions")
    return project


def train(family: str, *options: str) -> Any:
    return cli.run("train", [*FAMILIES[family], *SMALL, *options])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_cuda_tests_on_the_cpu_as_it_did_there(root, family, precision):
    result = train(family, "epochs=2", f"trainer.device={CUDA}", f"trainer.precision={precision}")
    losses = [row["train/loss"] for row in result.state.history]
    assert np.isfinite(losses).all()
    assert next(result.task.parameters()).device.type == CUDA
    on_cuda = json.loads((result.folder / "metrics.json").read_text())
    on_cpu = cli.run("test", ["run_name=run", "trainer.device=cpu", "trainer.precision=fp32"]).metrics
    assert set(result.test_metrics) == set(on_cpu)
    assert on_cuda
    # What a sample costs is smooth in the weights; the other metrics jump where a pixel changes sides.
    tolerance = {"fp32": 5e-3, "bf16": 5e-2, "fp16": 2e-2}[precision]
    assert result.test_metrics["loss"] == pytest.approx(on_cpu["loss"], rel=tolerance)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("family", ["multitask", "mixed", "pretraining"])
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(root, family, precision):
    settings = [
        *(f"trainer.device={CUDA}", f"trainer.precision={precision}", "trainer.deterministic=true"),
        *("trainer.ema_decay=0.9", "test_after_training=false"),
    ]
    last = root / "models" / "checkpoints" / "run.last.pt"
    train(family, "epochs=3", *settings)
    whole = load_checkpoint(last)
    for file in last.parent.glob("run*"):
        file.unlink()
    train(family, "epochs=2", *settings)
    torch.manual_seed(5)
    train(family, "epochs=3", *settings, "resume=true")
    resumed = load_checkpoint(last)
    assert bool(whole["scaler"]) == (precision == "fp16")
    for part in ("model", "ema", "optimizer", "schedule", "scaler"):
        assert_same(resumed[part], whole[part], part)


def assert_same(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}.{number}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found.cpu(), expected.cpu()), where
    else:
        assert found == expected, where


class Watched(list[Any]):
    """Batches on the device; once `watched`, waiting for the device while they are trained on is an error."""

    watched = False

    def start_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        if self.watched:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield from super().__iter__()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", ["multitask", "mixed", "transfer", "unet", "pretraining"])
def test_training_never_waits_for_the_device_nor_grows(root, family):
    train(family, "epochs=1", "trainer.device=cpu", "test_after_training=false")
    run = rebuild(load_checkpoint(root / "models" / "checkpoints" / "run.last.pt"))
    run.cfg.trainer.update(device=CUDA, precision="bf16")
    trainer = build_trainer(run.cfg)
    task = trainer.prepare(run.build_task())
    loader = run.build_data(split=None).train_loader()
    batches = Watched(trainer.settings.batches(loader))
    optimizer = build_optimizer(run.cfg, task)
    schedule = build_schedule(run.cfg, optimizer, steps_per_epoch=len(batches), mode=task.mode)
    loop = TrainingLoop(trainer.settings, task, optimizer, schedule)
    loop.train_epoch(TrainingState(), batches)  # the first epoch makes the optimizer's state
    batches.watched = True
    sizes = []
    for _ in range(3):
        loop.train_epoch(TrainingState(), batches)
        sizes.append(torch.cuda.memory_allocated())
    assert len(set(sizes)) == 1


def test_masks_of_cuda_are_those_of_the_cpu(root):
    train("multitask", "epochs=2", f"trainer.device={CUDA}", "test_after_training=false")
    files = sorted((root / "lesions" / "images").iterdir())[:6]
    options = ["run_name=run", "data.data_dir=lesions/images", "data.num_workers=0", "trainer.precision=fp32"]
    result = cli.run("infer", [*options, f"trainer.device={CUDA}"])
    on_cpu = polymask.load("run", device="cpu", precision="fp32").predict(files)
    for file, expected in zip(files, on_cpu, strict=True):
        mask = cv2.imread(str(result.folder / "masks" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
        assert ((mask > 0) == (expected.mask > 0)).mean() > 0.995
