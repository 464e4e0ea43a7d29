from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from polymask.families.volumes.tables import (
    ObjectTable,
    measure_shapes,
    object_rows,
    resized_row,
    table_columns,
)


@pytest.fixture
def labels() -> np.ndarray:
    """Objects of any shape, in pieces too; 4 has no voxel."""
    drawn = np.random.default_rng(0).integers(0, 7, (6, 20, 30), np.uint16)
    drawn[drawn == 4] = 0
    drawn[:, :, 25:] = 0
    drawn[:2][drawn[:2] == 5] = 0
    return drawn


def test_shapes_are_those_of_scipy(labels: np.ndarray) -> None:
    shapes = measure_shapes(labels, 6)
    for number in (1, 2, 3, 5, 6):
        (place,) = ndimage.find_objects((labels == number).astype(int))
        assert shapes.voxels[number - 1] == (labels == number).sum()
        assert shapes.first[number - 1].tolist() == [side.start for side in place]
        assert shapes.stop[number - 1].tolist() == [side.stop for side in place]
        expected = ndimage.center_of_mass(labels == number)
        np.testing.assert_allclose(shapes.centres[number - 1], expected)
    assert shapes.voxels[3] == 0
    assert np.isnan(shapes.centres[3]).all()
    assert (shapes.stop[3] - shapes.first[3] == 0).all()


def test_rows_have_micrometres_only_where_the_voxel_is_known(labels: np.ndarray) -> None:
    labels[5, 19, 29] = 4  # of no voxel, its place would be NaN, which is not equal to itself
    given = np.linspace(0.5, 1, 6), np.array([0, 1, 0, 0, 1, 0])
    plain = object_rows(labels, *given, None, class_names=["cell", "debris"])
    known = object_rows(labels, *given, (0.5, 0.1, 0.2), class_names=["cell", "debris"])
    assert [row["number"] for row in plain] == [1, 2, 3, 4, 5, 6]
    assert [row["class"] for row in plain] == ["cell", "debris", "cell", "cell", "debris", "cell"]
    assert not any(name.endswith(("_um", "_um3")) for name in plain[0])
    assert ("frame", *known[0]) == table_columns((0.5, 0.1, 0.2))
    assert known[4]["volume_um3"] == pytest.approx(known[4]["voxels"] * 0.01, rel=1e-5)
    assert known[4]["extent_z_um"] == pytest.approx(known[4]["extent_z"] * 0.5)
    assert known == [resized_row(row, (0.5, 0.1, 0.2)) for row in plain]
    assert known[4]["centroid_x_um"] == pytest.approx(known[4]["centroid_x"] * 0.2, abs=1e-3)


def test_the_table_has_its_name_when_it_is_whole(tmp_path: Path, labels: np.ndarray) -> None:
    table = ObjectTable(tmp_path / "new", voxel_size=None)
    rows = object_rows(labels, np.ones(6), np.zeros(6, int), None, class_names=["cell"])
    table.add("01/t000", rows)
    table.add("01/t001", rows, offset=6)
    assert not (tmp_path / "new/objects.csv").exists()
    table.finish()
    written = pd.read_csv(tmp_path / "new/objects.csv")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["objects.csv"]
    assert list(written["number"]) == list(range(1, 13))
    assert list(written["frame"]) == ["01/t000"] * 6 + ["01/t001"] * 6
    assert list(written["voxels"]) == [row["voxels"] for row in rows] * 2


def test_a_table_of_nothing_has_its_columns(tmp_path: Path) -> None:
    ObjectTable(tmp_path, voxel_size=None).finish()
    assert (tmp_path / "objects.csv").read_text() == ",".join(table_columns(None)) + "\n"
