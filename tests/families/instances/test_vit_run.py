"""A plain vision transformer as a backbone, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from instance_files import write_coco

from polymask import cli
from polymask.errors import UserError
from polymask.utils import paths

OPTIONS = [
    "experiment=mask_rcnn",
    "optimizer=adamw",
    "optimizer.learning_rate=1.0e-3",
    "optimizer.encoder_learning_rate=4.0e-4",
    "optimizer.layer_decay=0.5",
    "scheduler=none",
    "data.num_workers=0",
    "data.batch_size=4",
    "data.fractions=[0.5,0.25,0.25]",
    "model.backbone=test_vit",
    "model.taps=[1,3,4,6]",
    "model.drop_path=0.2",
    "model.checkpoint_blocks=true",
    "model.min_size=64",
    "model.max_size=96",
    "model.channels=8",
    "model.hidden_size=8",
    "model.anchor_sizes=[8,12,16,24,32]",
    "model.aspect_ratios=[1.0]",
    "model.boxes_per_image=8",
    "model.detections_per_image=4",
    "model.score_threshold=0.01",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a run in a project of its own, with an encoder that was trained on smaller images."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    data = write_coco(tmp_path / "coco", num_images=12)
    torch.manual_seed(0)
    state = timm.create_model("test_vit", num_classes=0, img_size=64).state_dict()
    statistics = {"pixel_mean": torch.full((3,), 0.25), "pixel_std": torch.full((3,), 0.5)}
    torch.save({**state, **statistics}, tmp_path / "vit.pth")
    return [*OPTIONS, f"data.data_dir={data}", f"model.weights={tmp_path / 'vit.pth'}"]


def test_a_run_is_tested_and_resumed_from_its_checkpoint(tmp_path: Path, options: list[str]) -> None:
    whole = cli.run("train", [*options, "run_name=whole", "epochs=2"])
    for row in whole.state.history:
        assert row["learning_rate"] == 1e-3
        assert row["learning_rate_encoder"] == 2e-4  # of the last block
    cli.run("train", [*options, "run_name=short", "epochs=1", "test_after_training=false"])
    (tmp_path / "vit.pth").unlink()  # all is in the checkpoint
    cli.run("train", ["resume=true", "run_name=short", "epochs=2"])
    files = [tmp_path / f"models/checkpoints/{name}.last.pt" for name in ("whole", "short")]
    expected, found = (torch.load(file, weights_only=True)["model"] for file in files)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert expected["model.detector.transform.pixel_mean"].tolist() == [0.25] * 3
    tested = cli.run("test", ["run_name=short"])
    np.testing.assert_equal(tested.metrics, whole.test_metrics)


def test_layers_are_asked_of_a_network_that_has_them(options: list[str]) -> None:
    options = [*options, "model.backbone=tu-test_resnet", "model.taps=null", "model.checkpoint_blocks=false"]
    with pytest.raises(UserError, match=r"optimizer\.layer_decay is for .*use optimizer\.layer_decay=null"):
        cli.run("train", [*options, "model.weights=null", "run_name=none"])
