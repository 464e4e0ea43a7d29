"""Masks at the size of their images: in tests, in inferences, and in comparisons of old and new tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from polymask import cli
from polymask.errors import UserError
from polymask.families.multitask import Family, original_size
from polymask.families.multitask.original_size import OriginalScores, count_pixels, parse_pixel_size
from polymask.reporting.rows import read_samples

HD95, NSD = "hd95_px_lesion_image_original", "nsd_2px_lesion_image_original"


def scores(**options: Any) -> OriginalScores:
    return OriginalScores(**{"num_classes": 2, "pixel_size": None, "tolerances": [2.0]} | options)


def pair() -> tuple[np.ndarray, np.ndarray]:
    """A square of 10 x 10 pixels, and the same moved 3 to the right."""
    predicted, true = np.zeros((2, 30, 40), np.uint8)
    predicted[5:15, 8:18], true[5:15, 5:15] = 1, 1
    return predicted, true


def test_counts_and_distances_of_a_square_that_is_moved() -> None:
    own = scores()
    own.add("b", *pair())
    own.add("a", pair()[0], None)
    rows = own.complete({"ids": np.array(["a", "b"])})
    np.testing.assert_array_equal(rows["lesion_confusion_original"], [[0, 0, 0], [70, 30, 30]])
    background = 30 * 40 - 130
    np.testing.assert_array_equal(
        rows["confusion_original"], [np.zeros((2, 3)), [[background, 30, 30], [70, 30, 30]]]
    )
    np.testing.assert_equal(rows[HD95], [np.nan, 3.0])
    assert 0 < rows[NSD][1] < 1


def test_the_size_of_pixels_turns_pixels_into_millimetres() -> None:
    own = scores(pixel_size=(250.0, 500.0), tolerances=[1.5])
    own.add("a", *pair())
    rows = own.complete({"ids": np.array(["a"])})
    assert rows["hd95_mm_lesion_image_original"].tolist() == [1.5]
    assert rows["nsd_1.5mm_lesion_image_original"].tolist() == [1.0]


def test_ignored_pixels_count_nowhere() -> None:
    predicted, true = pair()
    true[:, 15:] = 255  # what is predicted beyond the true square
    own = scores()
    own.add("a", predicted, true)
    rows = own.complete({"ids": np.array(["a"])})
    assert rows["lesion_confusion_original"].tolist() == [[70, 0, 30]]
    cut = predicted.copy()
    cut[:, 15:] = 0
    other = scores()
    other.add("a", cut, np.where(true == 255, 0, true))
    assert other.complete({"ids": np.array(["a"])})[HD95] == rows[HD95]


def test_rows_without_masks_stay_as_they_are() -> None:
    rows = {"ids": np.array(["a"])}
    assert scores().complete(rows) is rows


def test_strips_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 4, (23, 17), dtype=np.uint8)
    true = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (23, 17))
    whole = count_pixels(predicted, true, 4)
    for index in range(4):
        hits = ((predicted == index) & (true == index)).sum()
        misses = ((predicted != index) & (true == index)).sum()
        assert (whole[0][index][0], whole[0][index][2]) == (hits, misses)
    monkeypatch.setattr(original_size, "_STRIP_PIXELS", 50)
    np.testing.assert_equal(count_pixels(predicted, true, 4), whole)


@pytest.mark.parametrize(
    ("value", "size"), [(None, None), (20, (20.0, 20.0)), ([10, 2.5], (10.0, 2.5)), ((1, 2), (1.0, 2.0))]
)
def test_sizes_of_pixels(value: Any, size: tuple[float, float] | None) -> None:
    assert parse_pixel_size(value) == size


@pytest.mark.parametrize("value", [0, "abc", [1, 2, 3], [1, 0], True])
def test_sizes_that_are_none(value: Any) -> None:
    with pytest.raises(UserError, match=r"data\.pixel_size=.* is not valid; give .*null"):
        parse_pixel_size(value)


def test_tolerances_are_a_list_of_distances() -> None:
    assert Family(class_names=["A"], surface_tolerances=[2, 0.5, 2.0]).surface_tolerances == [0.5, 2.0]
    for value in (2, "12", [-1], [True], ["a"]):
        with pytest.raises(UserError, match=r"task\.surface_tolerances=.* is not valid; give"):
            Family(class_names=["A"], surface_tolerances=value)


# Whole runs


def test_masks_of_a_test_are_those_of_an_inference(trained: Path, tmp_path: Path) -> None:
    results = trained / "results" / "test" / "tiny"
    (split,) = trained.glob("outputs/*/*/split.csv")
    table = pd.read_csv(split)
    ids = table["id"][table["subset"] == "test"].tolist()
    (tmp_path / "list.txt").write_text("\n".join(f"{name}.jpg" for name in ids))
    options = ["run_name=tiny", f"data.data_dir={trained / 'lesions' / 'images'}", "overlay=false"]
    options += [f"data.file_list={tmp_path / 'list.txt'}", f"local_save_dir={tmp_path / 'out'}"]
    options += ["trainer.device=cpu", "trainer.precision=fp32", "data.num_workers=0"]
    folder = cli.run("infer", options).folder
    rows, _ = read_samples(results)
    inferred = pd.read_csv(folder / "predictions.csv").set_index("file")
    for name, counts in zip(rows["ids"], rows["lesion_confusion_original"], strict=True):
        own, other = ((place / "masks" / f"{name}.png").read_bytes() for place in (results, folder))
        assert own == other
        assert counts[:2].sum() == inferred.loc[f"{name}.jpg", "lesion_pixels"]


def test_a_test_of_an_old_run_may_ask_for_tolerances_and_millimetres(trained: Path, tmp_path: Path) -> None:
    options = ["run_name=tiny", f"local_save_dir={tmp_path}", "data.pixel_size=500"]
    metrics = cli.run("test", [*options, "task.surface_tolerances=[1,4]"]).metrics
    rows, _ = read_samples(trained / "results" / "test" / "tiny")
    assert metrics["hd95_mm_lesion_image_original"] == pytest.approx(rows[HD95].mean() / 2)
    near, far = (metrics[f"nsd_{tolerance}mm_lesion_image_original"] for tolerance in (1, 4))
    assert 0 < near < far < 1
    mask = cv2.imread(str(tmp_path / "tiny" / "masks" / f"{rows['ids'][0]}.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (48, 64)
