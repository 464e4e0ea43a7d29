"""A method that learns nothing is a run like others: tested, compared, applied."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import fails
from lesion_files import write_lesions

from polymask import cli
from polymask.data.images import read_image, resize_image
from polymask.models.classical.thresholding import dark_region
from polymask.utils import paths

SIZE = (64, 48)
OPTIONS = [
    "task=segmentation",
    "data.classes=[MEL,NV,BKL]",
    f"data.image_size=[{SIZE[0]},{SIZE[1]}]",
    "data.num_workers=0",
    "data.fractions=[0.4,0.2,0.4]",
    "transforms=none",
    "model.encoder_name=tu-test_resnet",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.encoder_weights=null",
    "trainer.device=cpu",
    "tracker=none",
    "epochs=1",
    "run_name=learned",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a trained run and its baseline."""
    root = tmp_path_factory.mktemp("baseline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        cli.run("train", [*OPTIONS, f"data.data_dir={write_lesions(root / 'lesions')}"])
        cli.run("baseline", ["learned", "tracker=none", "trainer.device=cpu"])
    return root


@pytest.fixture
def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PROJECT_ROOT", root)
    return root


def test_its_metrics_are_those_of_the_regions_on_the_networks_grid(project: Path) -> None:
    folder = project / "results" / "test" / "classical_learned"
    with (folder / "per_sample.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    dices = []
    for name in rows:
        image = resize_image(read_image(project / "lesions" / "images" / f"{name}.jpg"), SIZE)
        mask = cv2.imread(str(next((project / "lesions" / "masks").glob(f"{name}*"))), 0)
        true = cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
        found = dark_region(image)
        dices.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    written = json.loads((folder / "metrics.json").read_text())["metrics"]["dice_lesion_image"]["value"]
    assert len(dices) > 4
    assert written == pytest.approx(np.mean(dices), abs=1e-3)


def test_it_has_the_split_of_the_run_and_is_compared_with_it(project: Path) -> None:
    folder = project / "models" / "checkpoints"
    own, learned = (
        torch.load(folder / f"{name}.pt", weights_only=True) for name in ("classical_learned", "learned")
    )
    assert own["split"] == learned["split"]
    result = cli.run(
        "compare",
        [
            "classical_learned",
            "learned",
            "num_replicates=20",
            "num_permutations=20",
            "num_pictures=1",
            "tracker=none",
        ],
    )
    text = (result.folder / "comparison.txt").read_text()
    assert "classical_learned" in text
    assert "splits differ" not in text


def test_it_is_tested_again_and_applied_by_the_same_commands(project: Path, tmp_path: Path) -> None:
    before = json.loads((project / "results/test/classical_learned/metrics.json").read_text())["metrics"]
    again = cli.run("test", ["run_name=classical_learned", f"local_save_dir={tmp_path}", "tracker=none"])
    assert again.metrics["dice_lesion_image"] == pytest.approx(before["dice_lesion_image"]["value"])
    images = project / "lesions" / "images"
    options = [
        f"data.data_dir={images}",
        f"local_save_dir={tmp_path / 'found'}",
        "data.num_workers=0",
        "overlay=false",
    ]
    result = cli.run("infer", ["run_name=classical_learned", *options, "trainer.device=cpu"])
    assert result.predicted == len(list(images.iterdir()))


def test_mistakes_are_one_line_and_replace_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "models/checkpoints/learned.pt").read_bytes()
    assert "learned is a trained run" in fails(capsys, "baseline", "learned", "run_name=learned")
    assert "nobody" in fails(capsys, "baseline", "nobody")
    assert "like= is needed" in fails(capsys, "baseline")
    assert (project / "models/checkpoints/learned.pt").read_bytes() == before


def test_a_run_that_predicts_more_has_no_baseline(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project / "models" / "checkpoints"
    content = torch.load(folder / "learned.pt", weights_only=True)
    content["config"]["task"]["predict_classes"] = True
    torch.save(content, folder / "both.pt")
    assert (
        "both predicts label and mask, but the baseline can only give mask or objects; name a run"
        in fails(capsys, "baseline", "both", "tracker=none")
    )
    assert not (folder / "classical_both.pt").exists()
