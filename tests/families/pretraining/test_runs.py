"""Pre-training from the command line: any images of ours, what it leaves, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import fails
from instance_files import write_coco
from lesion_files import write_lesions
from small_mae import SMALL_MAE

from polymask import cli
from polymask.data.images import read_image
from polymask.utils import paths

OPTIONS = [
    "task=pretraining",
    "model=vit_mae",
    "loss=reconstruction",
    "transforms=pretraining",
    *(f"model.{name}={value}" for name, value in SMALL_MAE.items()),
    "data.image_size=32",
    "data.batch_size=8",
    "data.num_workers=0",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "epochs=2",
]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a project with the run `lesions`, of images that have masks and classes, too."""
    root = tmp_path_factory.mktemp("pretraining")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        folder = write_lesions(root / "lesions")
        options = ["data=ham10000", f"data.data_dir={folder}", "data.classes=[MEL,NV,BKL]"]
        options += ["data.fractions=[0.4,0.2,0.4]", "preview_epochs=1", "run_name=lesions"]
        cli.run("train", [*OPTIONS, *options])
    return root


@pytest.fixture
def root(once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PROJECT_ROOT", once)
    return once


def test_the_report_holds_numbers_and_pictures(root: Path) -> None:
    folder = root / "results" / "test" / "lesions"
    content = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "per_sample.csv", dtype={"id": str})
    assert list(table) == ["id", "group", "loss", "loss_mean_image", "explained"]
    assert content["num_samples"] == len(table) > 6
    assert content["losses"]["loss"] == pytest.approx(table["loss"].mean(), rel=1e-5)
    assert content["metrics"]["explained"]["value"] == pytest.approx(
        1 - table["loss"].sum() / table["loss_mean_image"].sum(), rel=1e-5
    )
    assert {path.stem for path in (folder / "reconstructions").iterdir()} == set(table["id"])
    shown = cv2.imread(str(folder / "reconstructions.png"))
    height = read_image(folder / "reconstructions" / f"{table['id'][0]}.jpg").shape[0]
    assert shown.shape[0] > 6 * height  # two of the best, of the middle and of the worst, with their words
    (previews,) = (root / "outputs").rglob("previews")
    assert sorted(path.name for path in previews.iterdir()) == ["epoch_0001.jpg", "epoch_0002.jpg"]


def test_a_later_test_gives_the_same_and_the_encoder_is_left(root: Path, tmp_path: Path) -> None:
    result = cli.run("test", ["run_name=lesions", f"local_save_dir={tmp_path}", "data.eval_batch_size=3"])
    first, later = root / "results" / "test" / "lesions" / "samples.npz", result.folder / "samples.npz"
    with np.load(first) as before, np.load(later) as after:
        np.testing.assert_array_equal(before["ids"], after["ids"])
        np.testing.assert_allclose(before["loss"], after["loss"], rtol=1e-4)
    weights = torch.load(root / "models" / "ssl_vit_backbone.pth", weights_only=True)
    assert {"pos_embed", "pixel_mean", "blocks.1.attn.qkv.weight"} <= weights.keys()
    facts = yaml.safe_load((root / "models" / "ssl_vit_backbone.yaml").read_text())
    assert (facts["run_name"], facts["norm_pixels"], facts["image_size"]) == ("lesions", False, 32)


def test_drawn_images_are_learned_from(project: Path) -> None:
    options = ["data=demo", "data.reader.num_images=21", "+data.reader.size=[40,48]", "epochs=1"]
    result = cli.run("train", [*OPTIONS, *options, "run_name=demo"])
    assert {"loss", "loss_mean_image", "explained"} <= result.test_metrics.keys()
    assert np.isfinite(list(result.test_metrics.values())).all()


def test_there_is_nothing_to_infer(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "predicts nothing of new images" in fails(
        capsys, "infer", "run_name=lesions", "data.data_dir=lesions/images"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data=demo", "data.image_size=40"], "use data.image_size=[32,32]"),
        (["data=demo", "data.image_size=40", "transforms=none"], "set model.image_size and data.image_size"),
        (["data=unlabelled", "data.data_dir=empty"], "holds no image; looked for"),
        (
            ["data=coco", "data.image_size=null", "data.data_dir=coco", "transforms=none"],
            "use data=unlabelled",
        ),
        (
            ["data=unlabelled", "data.data_dir=coco", "transforms.crop.size=[48,48]"],
            "use transforms=pretraining",
        ),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "empty").mkdir()
    write_coco(project / "coco", num_images=8)
    demo = ["data.reader.num_images=21"] if "data=demo" in options else []
    assert message in fails(capsys, "train", *OPTIONS, *options, *demo, "run_name=x")
