"""The family of volumes keeps to what every family keeps to."""

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
from volume_files import draw_balls, paint, place_balls, write_ctc, write_stack
from volume_runs import TINY

SHAPE = (4, 40, 40)


class TestVolumes(FamilyTester):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        root = tmp_path_factory.mktemp("volumes")
        write_ctc(root / "data", frames=5, shape=SHAPE)
        (root / "cases").mkdir()
        for number in range(6):
            rng = np.random.default_rng(number)
            shape = (3 + number % 2, 40, 44)
            volume = paint(draw_balls(shape, place_balls(shape, 3, rng)), rng)
            write_stack(root / "cases" / f"v{number}.tif", volume)
        return Example(options=[*TINY, f"data.data_dir={root / 'data'}"], cases=root / "cases")

    def check_result(self, result: Any, folder: Path, name: str, row: Mapping[str, Any]) -> None:
        _, pages = cv2.imreadmulti(str(folder / "label_maps" / f"{name}.tif"), flags=cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(np.stack(pages), result.labels)
        numbers = np.unique(result.labels)
        assert numbers[numbers > 0].tolist() == list(range(1, len(result.scores) + 1))
        assert row["num_objects"] == row["count_cell"] == len(result.scores)
        assert row["covered_voxels"] == np.count_nonzero(result.labels)
        objects = pd.read_csv(folder / "objects.csv")
        own = objects[objects["frame"] == row["file"]]
        np.testing.assert_allclose(own["score"], result.scores, atol=1e-6)
        assert own["voxels"].tolist() == np.bincount(result.labels.ravel())[1:].tolist()
