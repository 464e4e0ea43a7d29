"""Runs of the command line with mixed images and adjusted logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from family_run import plain, project_in
from lesion_files import write_lesions

from polymask import cli
from polymask.errors import UserError
from polymask.families.multitask.task import Task
from polymask.training.checkpoint import load_checkpoint

EPOCHS = 2
MIXED = (
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=[32,48]",
    "data.batch_size=4",
    "data.num_workers=0",
    "data.fractions=[0.7,0.15,0.15]",
    "data.cache_dir=null",
    "loss=logit_adjusted",
    "model.encoder_name=tu-test_resnet",
    "model.encoder_weights=null",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.head.dropout=0.5",
    "task.mixing.mixup=0.5",
    "task.mixing.cutmix=0.5",
    "trainer.accumulate_batches=2",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "test_after_training=false",
    "run_name=mixed",
)
PARTS = ("model", "optimizer", "schedule", "training")


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = write_lesions(tmp_path_factory.mktemp("data") / "lesions")
    return [*MIXED, f"data.data_dir={folder}", f"epochs={EPOCHS}"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(root: Path, options: list[str]) -> dict:
    return train(root, [*options, f"preview_epochs={EPOCHS}", "preview_images=3"])


def train(root: Path, options: list[str]) -> dict:
    with project_in(root):
        cli.run("train", options)
    return load_checkpoint(root / "models" / "checkpoints" / "mixed.last.pt")


def assert_same_course(found: dict, expected: dict) -> None:
    for part in PARTS:
        np.testing.assert_equal(plain(found[part]), plain(expected[part]), err_msg=part)


def test_an_interrupted_run_with_loader_workers_ends_bit_for_bit_as_a_whole_one(
    whole, options, tmp_path, monkeypatch
):
    steps, step = [], Task.training_step

    def interrupted(task, batch):
        steps.append(batch["ids"])
        if len(steps) == 6:  # in the second epoch of four batches
            raise Interrupted
        return step(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", interrupted)
        with pytest.raises(Interrupted):
            train(tmp_path, options)
    before = load_checkpoint(tmp_path / "models" / "checkpoints" / "mixed.last.pt")
    assert before["training"]["epoch"] == 1
    torch.manual_seed(99)
    resumed = train(tmp_path, [*options, "resume=true", "data.num_workers=1"])
    assert_same_course(resumed, whole)
    assert whole["training"]["history"][1]["train/loss"] != whole["training"]["history"][0]["train/loss"]


def test_mixed_images_are_shown_beside_the_previews(whole, root):
    pictures = sorted(path.name for path in root.glob("outputs/*/*/previews/*"))
    assert pictures == ["epoch_0002.jpg", "training_samples.png"]


def test_mixing_changes_what_is_learned(whole, options, tmp_path):
    unmixed = train(tmp_path, [*options, "task.mixing.mixup=0", "task.mixing.cutmix=0", "epochs=1"])
    first, other = whole["training"]["history"][0], unmixed["training"]["history"][0]
    assert first["train/loss_dice"] != other["train/loss_dice"]
    assert first["train/loss_ce"] != other["train/loss_ce"]


def test_a_batch_of_one_is_refused_in_one_line(options, tmp_path):
    with pytest.raises(UserError, match=r"^task\.mixing\.mixup=0\.5 needs two .*data\.batch_size.*\.$"):
        train(tmp_path, [*options, "data.batch_size=1"])
