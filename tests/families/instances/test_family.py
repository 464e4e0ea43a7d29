"""The family of single objects keeps to what every family keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from family_run import Example
from family_tester import FamilyTester
from instance_files import write_coco

from polymask.structures import rle

THRESHOLD = 0.1
SIZES = ((64, 64), (64, 64), (56, 80))  # the network sees images of one size together


class TestInstances(FamilyTester):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("objects") / "data"
        write_coco(folder, num_images=12, sizes=SIZES)
        options = [
            "experiment=mask_rcnn",
            "scheduler=none",
            f"data.data_dir={folder}",
            "data.batch_size=1",
            "data.eval_batch_size=2",
            "data.copy_paste.probability=0.25",  # so that an interruption may fall between two pasted images
            "model.backbone=test_efficientnet",
            "model.weights=null",
            "model.min_size=64",
            "model.max_size=96",
            "model.channels=32",
            "model.hidden_size=16",
            "model.anchor_sizes=[8,12,16,24,32]",
            "model.aspect_ratios=[1.0]",
            "model.boxes_per_image=32",
            "model.detections_per_image=10",
            "model.score_threshold=0.01",
            f"task.score_threshold={THRESHOLD}",
            "optimizer.learning_rate=3.0e-3",
        ]
        # `MaskRCNNSegmenter.evaluate` returns the losses of a batch.
        return Example(options=options, cases=folder / "images", losses_of_batches=True)

    def check_result(self, result: Any, folder: Path, name: str, row: Mapping[str, Any]) -> None:
        numbers = np.zeros(result.size, np.uint16)
        sure = [mask for mask, score in zip(result.masks, result.scores, strict=True) if score >= THRESHOLD]
        for number in range(len(sure), 0, -1):  # the surest object lies on top
            numbers[rle.decode(sure[number - 1])] = number
        written = cv2.imread(str(folder / "label_maps" / f"{name}.tif"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, numbers)
        assert row["num_objects"] == len(sure)
        objects = pd.read_csv(folder / "instances.csv")
        assert (objects["image"] == row["file"]).sum() == len(sure)
        assert row["covered_pixels"] == np.count_nonzero(numbers)
