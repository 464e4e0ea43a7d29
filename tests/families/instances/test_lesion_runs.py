"""Masks of lesions in the system for objects, from training to the report."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from polymask import cli

OPTIONS = [
    "experiment=lesions_vit_mask_rcnn",
    "run_name=lesions",
    "epochs=1",
    "data.overfit_samples=3",
    "data.num_workers=0",
    "trainer.steps_per_epoch=2",
    "model.backbone=test_vit",
    "model.taps=[1,3,4,6]",
    "model.min_size=64",
    "model.max_size=96",
    "model.channels=32",
    "model.hidden_size=16",
    "model.anchor_sizes=[8,12,16,24,32]",
    "model.aspect_ratios=[1.0]",
    "model.boxes_per_image=16",
    "model.score_threshold=0.0",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
]


def test_a_run_reports_one_true_object_per_mask(lesion_folder: Path, project: Path) -> None:
    for path in (lesion_folder / "masks").iterdir():  # one disc and a speck
        mask = np.zeros((48, 64), np.uint8)
        cv2.circle(mask, (30, 24), 9, 255, -1)
        mask[2:5, 2:5] = 255
        cv2.imwrite(str(path), mask)
    cli.run("train", [f"data.data_dir={lesion_folder}", *OPTIONS])
    folder = project / "results/test/lesions"
    table = pd.read_csv(folder / "per_sample.csv").set_index("id")
    assert len(table) == 3
    assert set(table.true_lesion) == {1}
    found = json.loads((folder / "instances.json").read_text())
    assert {one["category_id"] for one in found} == {1}
    assert {one["image_id"] for one in found} <= set(table.index)
    assert {"bbox", "segmentation", "score"} <= set(found[0])
