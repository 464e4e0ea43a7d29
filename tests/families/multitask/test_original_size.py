"""Masks at the size of their images: in tests, in inferences, and in comparisons of old and new tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

import polymask
from polymask import cli
from polymask.errors import UserError
from polymask.families.multitask import Family, original_size
from polymask.families.multitask.original_size import OriginalScores, count_pixels, parse_pixel_size
from polymask.reporting.rows import read_samples
from polymask.utils import paths

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


@pytest.fixture
def boxed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root with `tiny` as the run `boxed`, which takes images in letterboxes of 64 x 64 pixels."""
    content = torch.load(trained / "models" / "checkpoints" / "tiny.pt", weights_only=True)
    content["run_name"] = "boxed"
    own = {"fit": "letterbox", "image_size": [64, 64], "data_dir": str(trained / "lesions")}
    content["config"]["data"] |= own
    content["config"]["task"]["fit"] = "letterbox"
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(content, folder / "boxed.pt")
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    return trained / "lesions"


def test_a_letterbox_is_undone_in_tests_and_inferences(boxed: Path, tmp_path: Path) -> None:
    """Images are 48 x 64, so that they lie unchanged in rows 8 to 55."""
    tested = cli.run("test", ["run_name=boxed"])
    rows, _ = read_samples(tested.folder)
    np.testing.assert_array_equal(rows["lesion_confusion"], rows["lesion_confusion_original"])
    np.testing.assert_array_equal(rows["confusion"].sum(axis=1)[:, [0, 2]].sum(axis=1), [48 * 64] * 9)
    options = ["run_name=boxed", f"data.data_dir={boxed / 'images'}", "data.num_workers=0", "overlay=false"]
    folder = cli.run("infer", [*options, "trainer.device=cpu", "trainer.precision=fp32"]).folder
    predictor = polymask.load("boxed", device="cpu", precision="fp32")
    for id_ in rows["ids"]:
        image = cv2.imread(str(boxed / "images" / f"{id_}.jpg"))[..., ::-1]
        padded = np.zeros((1, 64, 64, 3), np.uint8)
        padded[0, 8:56] = image
        (found,) = predictor.predict_batch({"ids": [id_], "image": torch.from_numpy(padded)})
        wanted = found.mask_probabilities[0, 8:56].numpy()
        for place in (tested.folder, folder):
            mask = cv2.imread(str(place / "masks" / f"{id_}.png"), cv2.IMREAD_UNCHANGED) == 255
            assert not (mask != (wanted > 0.5))[abs(wanted - 0.5) > 1e-4].any()


def test_an_unknown_fit_is_refused(trained: Path) -> None:
    options = ["data=demo", "data.reader.num_images=14", "data.fit=leterbox"]
    with pytest.raises(UserError, match=r"data\.fit='leterbox' is unknown\. Did you mean 'letterbox'"):
        cli.run("train", options)
