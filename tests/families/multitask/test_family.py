"""The multi-task family keeps to what every family keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from family_run import Example
from family_tester import FamilyTester
from lesion_files import write_lesions


class TestMultitask(FamilyTester):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = write_lesions(tmp_path_factory.mktemp("lesions") / "data")
        options = [
            f"data.data_dir={folder}",
            "data.classes=[MEL,NV,BKL]",
            "data.image_size=64",
            "data.batch_size=2",
            "data.eval_batch_size=2",
            "model.encoder_name=tu-test_resnet",
            "model.encoder_weights=null",
            "optimizer.learning_rate=1.0e-3",
        ]
        # `MultitaskLoss` is that of a batch: Dice is a ratio of sums over all of its masks.
        return Example(options=options, cases=folder / "images", losses_of_batches=True)

    def check_result(self, result: Any, folder: Path, name: str, row: Mapping[str, Any]) -> None:
        mask = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, 255 * result.mask)
        assert row["lesion_pixels"] == result.mask.sum()
        assert row["predicted_class"] == result.predicted_class
        for class_name, value in result.class_probabilities.items():
            assert row[f"probability_{class_name}"] == pytest.approx(value, abs=1e-6)
