"""The family of masked autoencoders keeps to what every family keeps to."""

from __future__ import annotations

import cv2
import pytest
from family_run import Example
from family_tester import FamilyTester
from lesion_files import lesion
from small_mae import SMALL_MAE


class TestPretraining(FamilyTester):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("images")
        for number in range(16):
            cv2.imwrite(str(folder / f"{number}.png"), lesion(48, 64, seed=number)[..., ::-1])
        options = [
            "experiment=lesions_mae",
            f"data.data_dir={folder}",
            "data.image_size=40",
            "data.batch_size=2",
            "data.eval_batch_size=2",
            *(f"model.{name}={value}" for name, value in SMALL_MAE.items()),
            "scheduler.warmup_share=0.3",
            "optimizer.learning_rate=3.0e-3",
            "preview_epochs=null",
        ]
        return Example(options=options)
