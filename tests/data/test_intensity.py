from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from data_sets import build
from lesion_data import make_data

from polymask.data.headers import NumberFormat
from polymask.data.intensity import EIGHT_BIT, check_depth, find_range, parse_range, to_uint8
from polymask.data.sources import read_ham10000, read_label_maps
from polymask.errors import UserError
from polymask.families.instances import Samples

RANGE = (300.0, 850.0)


def deepen(folder: Path, dtype: type = np.uint16) -> None:
    """Write the images of a data set anew with 2 * value + 100 in a deeper type."""
    for path in sorted((folder / "images").iterdir()):
        values = cv2.imread(str(path)).astype(dtype) * 2 + 100
        path.unlink()
        assert cv2.imwrite(str(path.with_suffix(".tif")), values)


def all_values(data, subset: str) -> np.ndarray:
    read = (cv2.imread(str(r.image_path), cv2.IMREAD_UNCHANGED).ravel() for r in data.subset(subset))
    return np.concatenate(list(read)).astype(np.float64)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_values_are_mapped_linearly_rounded_and_clipped(dtype):
    values = np.arange(0, 1200).reshape(30, 40).astype(dtype)
    wanted = np.rint((values.astype(float) - 300) / 550 * 255).clip(0, 255)
    found = to_uint8(values, RANGE, "x")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)


def test_images_of_8_bits_stay_as_they_are_but_for_a_given_range():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert to_uint8(values, EIGHT_BIT, "x") is values
    wanted = np.rint((values.astype(float) - 50) / 100 * 255).clip(0, 255)
    np.testing.assert_array_equal(to_uint8(values, (50.0, 150.0), "x"), wanted)


REFUSED = {
    "16 bits in a run of 8": (np.full((4, 4), 300, np.uint16), EIGHT_BIT),
    "float in a run of 8 bits": (np.linspace(0, 1, 16).reshape(4, 4), EIGHT_BIT),
    "8 bits in a run of 16": (np.arange(16, dtype=np.uint8).reshape(4, 4), RANGE),
    "all darker than the range": (np.arange(16, dtype=np.uint16).reshape(4, 4), RANGE),
    "all brighter than the range": (np.arange(16, dtype=np.uint16).reshape(4, 4) + 9000, RANGE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_image_that_the_range_would_blacken_is_refused(case):
    values, intensity_range = REFUSED[case]
    with pytest.raises(UserError, match=r"image x has the values .* but the model reads .*intensity_range="):
        to_uint8(values, intensity_range, "image x")


def test_blank_image_is_none_of_these():
    assert (to_uint8(np.full((4, 4), 7, np.uint16), RANGE, "x") == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(value):
    values = np.ones((4, 4), np.float32)
    values[1, 2] = value
    with pytest.raises(UserError, match="image x has 1 values that are no finite numbers"):
        to_uint8(values, RANGE, "image x")


@pytest.mark.parametrize("value", ["0,255", [1], [1, 2, 3], [5, 5], [9, 1], ["a", 2], [0, float("nan")], 7])
def test_range_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=r"data\.intensity_range=.*\[low, high\]"):
        parse_range(value)


def test_range_is_that_of_the_training_images_for_every_subset(lesion_folder):
    deepen(lesion_folder)
    data = make_data(lesion_folder)
    values = all_values(data, "train")  # small enough that all of them count
    assert data.intensity_range == pytest.approx(tuple(np.percentile(values, (0.1, 99.9))))
    assert {record.intensity_range for record in data.subset("test")} == {data.intensity_range}
    record = data.subset("test")[0]
    stored = cv2.imread(str(record.image_path), cv2.IMREAD_UNCHANGED)[..., ::-1].astype(float)
    low, high = data.intensity_range
    wanted = np.rint((stored - low) / (high - low) * 255).clip(0, 255)
    np.testing.assert_array_equal(record.read_image(), wanted)


def test_given_range_wins_and_changes_the_cached_samples(lesion_folder, tmp_path):
    deepen(lesion_folder)
    samples = [
        next(iter(make_data(lesion_folder, intensity_range=wide, cache_dir=str(tmp_path)).train_loader()))
        for wide in ([100, 610], [100, 1120], [100, 610])
    ]
    assert (samples[0]["image"] == samples[2]["image"]).all()
    assert samples[1]["image"].float().mean() == pytest.approx(samples[0]["image"].float().mean() / 2, abs=1)


def test_8_bit_set_keeps_0_to_255(lesion_folder):
    assert make_data(lesion_folder).intensity_range == EIGHT_BIT


def test_objects_are_read_by_the_same_rule(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    labels = np.zeros((32, 32), np.uint16)
    labels[4:12, 4:12], labels[20:28, 18:30] = 1, 2
    for index in range(6):
        image = (400 + 150 * (labels > 0) + rng.normal(0, 9, labels.shape)).astype(np.float32)
        assert cv2.imwrite(str(tmp_path / "images" / f"i{index}.tif"), image)
        assert cv2.imwrite(str(tmp_path / "labels" / f"i{index}.tif"), labels)
    data = build(
        Samples,
        reader=read_label_maps,
        data_dir=str(tmp_path),
        classes=[],
        batch_size=1,
        fractions=(0.5, 0.25, 0.25),
    )
    assert 350 < data.intensity_range[0] < 400 < 550 < data.intensity_range[1] < 600
    image = next(iter(data.evaluation_loader("val")))["image"][0].numpy()
    assert len(np.unique(image)) > 50
    assert image[labels > 0].mean() - image[labels == 0].mean() > 120


def test_mixed_depth_is_refused_with_counts_and_examples(lesion_folder):
    first = sorted((lesion_folder / "images").iterdir())[0]
    values = cv2.imread(str(first)).astype(np.uint16)
    first.unlink()
    cv2.imwrite(str(first.with_suffix(".png")), values)
    with pytest.raises(UserError, match=r"differ in depth: 1 with 16 bits .*0001\.png.*23 with 8 bits"):
        make_data(lesion_folder)


def test_sparse_images_take_their_least_and_greatest_value(tmp_path):
    values = np.zeros((100, 100), np.uint16)
    values[3, 4] = 4000
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert find_range([tmp_path / "a.png"]) == (0.0, 4000.0)
    cv2.imwrite(str(tmp_path / "b.png"), values * 0)
    with pytest.raises(UserError, match="hold only the value 0"):
        find_range([tmp_path / "b.png"])


def test_large_sets_are_sampled_evenly(tmp_path):
    paths = []
    for index in range(150):  # brighter and brighter
        paths.append(tmp_path / f"{index}.png")
        cv2.imwrite(str(paths[-1]), np.linspace(index * 100, index * 100 + 99, 64).astype(np.uint16)[None])
    low, high = find_range(paths)
    assert low < 150
    assert high > 14850
    assert check_depth({path: NumberFormat(bits=16) for path in paths})


def test_reader_of_lesions_knows_nothing_of_it(lesion_folder):
    assert {record.intensity_range for record in read_ham10000(lesion_folder, classes=["MEL"])[0]} == {
        EIGHT_BIT
    }
