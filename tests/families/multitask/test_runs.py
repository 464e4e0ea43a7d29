"""Runs of the command line on masks from which nothing can be learned, and on sets that lack a class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask import cli
from polymask.errors import UserError

OPTIONS = (
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=[32,48]",
    "data.batch_size=8",
    "data.num_workers=0",
    "transforms=none",
    "model.encoder_name=tu-test_resnet",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.encoder_weights=null",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "epochs=1",
)


def masks(folder: Path) -> list[Path]:
    return sorted((folder / "masks").iterdir())


def test_masks_that_are_ambiguous_or_missing_stop_a_training_before_it_writes_a_run(project, lesion_folder):
    for number, path in enumerate(masks(lesion_folder)):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255 * (1 + number % 3))
    start = (*OPTIONS, f"data.data_dir={lesion_folder}", "run_name=lost")
    with pytest.raises(
        UserError, match=r"8 files with 1, 8 files with 2, 8 files with 3\. .*data\.mask_values="
    ):
        cli.run("train", start)
    for path in masks(lesion_folder):
        path.unlink()
    with pytest.raises(UserError, match=r"none of the \d+ train images has a mask\. Looked for"):
        cli.run("train", start)
    assert not list((project / "models" / "checkpoints").iterdir())
    assert not (project / "results").exists()


def test_classes_are_learned_without_any_mask(project, lesion_folder):
    shutil.rmtree(lesion_folder / "masks")
    start = (*OPTIONS, f"data.data_dir={lesion_folder}", "run_name=classes", "task=classification")
    metrics = cli.run("train", start).test_metrics
    assert "accuracy" in metrics
    assert not [name for name in metrics if "dice" in name or "mask" in name]


def other_set(trained: Path, folder: Path) -> list[str]:
    """Copy the lesions without those of one class, as a set of tests only."""
    shutil.copytree(trained / "lesions", folder)
    table = (folder / "metadata.csv").read_text().splitlines()
    kept = [line for line in table if not line.endswith(",mel")]
    (folder / "metadata.csv").write_text("\n".join(kept) + "\n")
    split = ["id,subset", *(f"{line.split(',')[1]},test" for line in kept[1:])]
    (folder / "split.csv").write_text("\n".join(split) + "\n")
    return [f"data.data_dir={folder}", f"data.split_file={folder / 'split.csv'}", "data.cache_dir=null"]


def test_a_set_that_lacks_a_class_can_be_tested(trained, tmp_path, capsys):
    options = other_set(trained, tmp_path / "other")
    result = cli.run("test", ["run_name=tiny", f"local_save_dir={tmp_path / 'results'}", *options])
    content = json.loads((result.folder / "metrics.json").read_text())
    assert content["num_samples"] == 16
    assert content["metrics"]["recall_MEL"]["value"] is None
    assert content["metrics"]["recall_NV"]["value"] is not None
    assert "no image is of the class MEL, which is absent" in capsys.readouterr().out


def test_a_set_that_lacks_a_class_can_be_analysed(project, lesion_folder, capsys):
    options = ["data.classes=[MEL,NV,BKL,DF]", "tracker=none", "data.image_size=64"]
    folder = cli.run("analyze", [f"data.data_dir={lesion_folder}", *options]).folder
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["num_labels_DF"] == 0
    said = capsys.readouterr().out
    assert "no image is of the class DF, which is absent" in said
    assert "24 8-bit masks (0 and 255)" in said


def test_a_test_on_masks_of_another_meaning_asks_for_it_and_may_be_told(trained, tmp_path):
    options = other_set(trained, tmp_path / "other")
    start = ["run_name=tiny", f"local_save_dir={tmp_path / 'results'}", *options]
    for path in masks(tmp_path / "other"):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        mask[mask > 0] = 3
        mask[:2] = 1  # another thing at the upper rim
        cv2.imwrite(str(path), mask)
    with pytest.raises(UserError, match=r"hold 0 .*, 1 .*, 3 .*\. Are these class ids"):
        cli.run("test", start)
    result = cli.run("test", [*start, "data.mask_values=[3]"])
    content = json.loads((result.folder / "metrics.json").read_text())
    assert (content["num_masks"], content["num_empty_masks"]) == (16, 0)
    for path in masks(tmp_path / "other"):
        cv2.imwrite(str(path), np.zeros((48, 64), np.uint8))
    with pytest.raises(UserError, match="all 16 masks of the test subset are empty"):
        cli.run("test", start)
