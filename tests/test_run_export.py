"""Encoders of runs as files for other networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import yaml
from commands import fails
from lesion_files import write_lesions
from omegaconf import OmegaConf
from stub_task import StubTask

import polymask
from polymask import cli
from polymask.data.splits.split import split_from_csv
from polymask.factories import build_task, rebuild
from polymask.families.base import Family
from polymask.run_export import keep_encoder
from polymask.training.checkpoint import load_checkpoint, run_record
from polymask.training.state import TrainingState
from polymask.utils import paths

BASE = [
    "run_name=plain",
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=32",
    "data.batch_size=8",
    "data.num_workers=0",
    "transforms=none",
    "task=classification",
    "model.model=null",
    "model.encoder_name=tu-test_vit",
    "model.encoder_weights=null",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "epochs=2",
    "test_after_training=false",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project root of a run with a vision transformer."""
    root = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        cli.run("train", [*BASE, f"data.data_dir={write_lesions(root / 'lesions')}"])
    return root


@pytest.fixture
def root(plain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PROJECT_ROOT", plain)
    return plain


def test_the_encoder_of_a_run_is_written_with_its_description(root: Path) -> None:
    result = cli.run("export-encoder", ["run_name=plain"])
    assert result.path == root / "models/ssl_vit_backbone.pth"
    written = torch.load(result.path, weights_only=True)
    content = load_checkpoint(root / "models/checkpoints/plain.pt")
    stored = {
        key.removeprefix("model.encoder.model."): value
        for key, value in content["model"].items()
        if key.startswith("model.encoder.model.")
    }
    assert torch.equal(written.pop("pixel_mean"), content["model"]["model.pixel_mean"])
    assert torch.equal(written.pop("pixel_std"), content["model"]["model.pixel_std"])
    assert written.keys() == stored.keys()
    assert all(torch.equal(value, stored[key]) for key, value in written.items())
    timm.create_model("test_vit", num_classes=0).load_state_dict(written, strict=True)

    described = yaml.safe_load(result.path.with_suffix(".yaml").read_text())
    best = content["training"]["best_epoch"]
    assert described["architecture"] == "test_vit"
    assert (described["run_name"], described["epochs"]) == ("plain", best)
    assert described["val_loss"] == content["training"]["history"][best - 1]["val/loss"]
    assert described["split_sha256"] == split_from_csv(content["split"]).sha256


def test_the_newest_run_is_taken_and_a_path_is_text(root: Path) -> None:
    result = cli.run("export-encoder", ["path=files/a=(1).pt"])
    assert result.path == root / "files/a=(1).pt"
    assert yaml.safe_load((root / "files/a=(1).yaml").read_text())["run_name"] == "plain"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run_name=plain", "path=encoder.yaml"], "path=encoder.yaml is not valid; give the name of a file"),
        (["run_name=plain", "path=models/"], "path=models/ is not valid"),
        (["run_name=plian"], "Did you mean 'plain'?"),
        (["run=plain"], "run"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, "export-encoder", *arguments)


def test_an_encoder_of_another_kind_is_refused(
    plain: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(plain / "models/checkpoints/plain.pt", weights_only=True)
    cfg = OmegaConf.create(content["config"])
    cfg.model.encoder_name = "tu-test_resnet"
    task = build_task(cfg, rebuild(content).family, pretrained=False)
    content |= {"config": OmegaConf.to_container(cfg), "model": task.state_dict(), "ema": None}
    (project / "models/checkpoints").mkdir(parents=True)
    torch.save(content, project / "models/checkpoints/plain.pt")
    line = fails(capsys, "export-encoder", "run_name=plain")
    assert "run_name='plain' has no plain vision transformer as its encoder" in line
    assert not (project / "models/ssl_vit_backbone.pth").exists()


def test_a_training_leaves_its_encoder_where_its_family_wants_it(root: Path) -> None:
    best = root / "models/checkpoints/plain.pt"
    content = load_checkpoint(best)
    run, record = rebuild(content), run_record(content)
    state = TrainingState(**content["training"])
    task = run.build_task()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.zero_()  # the last epoch's, say: the best checkpoint's are to be written
    keep_encoder(run.family, task, best, record, state)
    assert not (root / "left").exists()
    run.family.encoder_path = "left/encoder.pth"  # type: ignore[misc]
    keep_encoder(run.family, task, best, record, state)
    left = torch.load(root / "left/encoder.pth", weights_only=True)
    assert torch.equal(left["cls_token"], content["model"]["model.encoder.model.cls_token"])
    assert (root / "left/encoder.yaml").is_file()


def test_tasks_and_families_offer_nothing_unless_they_say_so() -> None:
    assert StubTask().exported_encoder() is None
    assert Family.encoder_path is None


def test_a_whole_model_is_the_best_checkpoint_with_its_configuration(root: Path) -> None:
    result = cli.run("export-model", ["run_name=plain"])
    assert result.path == root / "models" / "final_lesion_segmenter.pth"
    assert result.path.read_bytes() == (root / "models" / "checkpoints" / "plain.pt").read_bytes()
    config = yaml.safe_load((root / "models" / "config.yaml").read_text())
    assert config == load_checkpoint(root / "models" / "checkpoints" / "plain.pt")["config"]
    image = sorted((root / "lesions" / "images").glob("*.jpg"))[0]
    by_file, by_run = (
        polymask.load(name, device="cpu").predict([image])[0] for name in (str(result.path), "plain")
    )
    assert by_file.class_probabilities == by_run.class_probabilities


def test_a_whole_model_needs_the_name_of_a_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "path=models is not valid" in fails(capsys, "export-model", "run_name=plain", "path=models")
    assert "nobody" in fails(capsys, "export-model", "run_name=nobody")
