from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from configs import composed
from volume_files import write_ctc, write_stack, write_volume_folders

from polymask.data.module import DataModule
from polymask.errors import UserError
from polymask.factories import build_data

NEEDS = frozenset({"image", "volume"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_ctc(tmp_path_factory.mktemp("volumes") / "ctc", frames=5)


def built(folder: Path, *options: str, data: str = "ctc", **values: Any) -> DataModule:
    cfg = composed(f"data={data}", "data.num_workers=0", *options)
    cfg.data.update({"data_dir": str(folder), "cache_dir": None, **values})
    return build_data(cfg)


def test_training_sees_slices_and_evaluation_volumes(folder, tmp_path):
    data = built(folder, every_slice=2, batch_size=4, cache_dir=str(tmp_path))
    loader = data.train_loader()
    loader.start_epoch(0)
    assert len(loader) == 3  # of 4 frames with 3 slices each
    ids = [id_ for batch in loader for id_ in batch["ids"]]
    assert sorted(ids) == [f"01/t00{f}/z00{z}" for f in range(4) for z in (1, 3, 5)]
    found = [batch["ids"] for batch in data.evaluation_loader("test")]
    assert found == [[f"02/t00{f}"] for f in range(5)]
    assert len(list(tmp_path.glob("*.npy"))) == 20  # of test volumes, too: a damaged one is found early
    assert data.groups(["02/t001"]) == ["02/t001"]


def test_augmentation_is_that_of_volumes(folder):
    cfg = composed("data=ctc")
    assert "hue_saturation" not in cfg.transforms
    assert cfg.transforms.affine.border_mode == 0
    augmented, plain = (
        {batch["ids"][0]: batch["image"][0].numpy() for batch in built(folder, *more).train_loader()}
        for more in ([], ["transforms=none"])
    )
    assert augmented.keys() == plain.keys()
    assert any(not np.array_equal(augmented[id_], plain[id_]) for id_ in plain)


def test_a_line_says_what_was_found(folder, tmp_path):
    assert built(folder).description() == (
        "10 volumes of 6 x 48 x 48 voxels (z, y, x), 16 bits, 60 of 60 slices annotated"
    )
    sparse = write_ctc(tmp_path / "ctc", sequences=1, frames=2, shape=(5, 40, 48), dense=False)
    write_ctc(sparse, sequences=1, frames=1)
    (sparse / "01_GT/SEG/man_seg_000_001.tif").unlink()
    (sparse / "01_GT/SEG/man_seg_000_003.tif").unlink()
    assert built(sparse).description() == (
        "2 volumes of 5 x 40 x 48 to 6 x 48 x 48 voxels (z, y, x), 16 bits, 8 of 11 slices annotated"
    )


def test_a_pair_of_folders_is_drawn_by_group(tmp_path):
    folder = write_volume_folders(tmp_path / "stacks", volumes=10)
    data = built(folder, data="stacks")
    assert [len(ids) for ids in data.split.subsets.values()] == [7, 2, 1]
    assert next(iter(data.evaluation_loader("test")))["truth"][0].shape == (6, 48, 48)


def test_one_volume_can_be_learned_by_heart(tmp_path):
    folder = write_ctc(tmp_path / "ctc", sequences=1, frames=1)
    data = built(folder, overfit_samples=1, every_slice=2)
    assert list(data.split.subsets.values()) == [["01/t000"]] * 3
    assert [len(batch["ids"]) for batch in data.train_loader()] == [3]
    with pytest.raises(UserError, match=r"val subset is empty; .* data\.overfit_samples=1"):
        built(folder).subset("val")


def test_the_range_of_intensities_is_each_volumes_own(folder, tmp_path):
    dim = write_ctc(tmp_path / "ctc", frames=5)
    path = dim / "01/t000.tif"
    volume = np.array(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])
    write_stack(path, volume // 3 + 1000)  # would be grey on grey by the range of all
    write_stack(dim / "01/t001.tif", (volume // 4).astype(np.uint8))  # and depths may be mixed
    data = built(dim)
    for batch in data.evaluation_loader("train"):
        opened = batch["volume"][0].open()
        assert (opened.min(), opened.max()) == (0, 255)
        assert abs(np.median(opened) - 20) < 15
    with pytest.raises(UserError, match=r"data.intensity_range=\[0, 400\] is of no use here"):
        built(folder, "+data.intensity_range=[0,400]")
    with pytest.raises(UserError, match=r"data\.sampler=weighted draws samples by their class"):
        built(folder, "+data.sampler=weighted").train_loader()


def test_original_samples_are_middle_slices_with_all_objects_of_the_volume(folder):
    data = built(folder)
    samples = list(data.original_samples())
    assert [sample.subset for sample in samples] == ["train"] * 4 + ["val"] + ["test"] * 5
    labels = np.array(cv2.imreadmulti(str(folder / "01_GT/SEG/man_seg000.tif"), flags=-1)[1])
    first = samples[0]
    np.testing.assert_array_equal(first.mask, labels[3] > 0)
    assert first.num_objects == len(first.class_names) == len(np.unique(labels)) - 1
    assert first.image.shape == (48, 48, 3)
    assert first.image[first.mask > 0].mean() > 2 * first.image[first.mask == 0].mean()
    (sheet,) = data.augmented_samples(1, 2)
    assert [picture.title.split(", ")[1] for picture in sheet] == ["plain", "epoch 1", "epoch 2"]
    assert all(picture.image.shape == (48, 48, 3) and picture.mask.shape == (48, 48) for picture in sheet)


def test_truth_without_any_object_is_refused(tmp_path):
    folder = write_ctc(tmp_path / "ctc", frames=3)
    built(folder).check_truth(NEEDS)
    for path in (folder / "02_GT/SEG").iterdir():
        write_stack(path, np.zeros((6, 48, 48), np.uint16))
    data = built(folder)
    data.check_truth(NEEDS, ("train",))
    with pytest.raises(
        UserError, match=r"none of the 3 test volumes of .* holds an object: all labels are 0"
    ):
        data.check_truth(NEEDS)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"slices": 4}, r"data.slices=4 is not valid; it must be odd, .* e.g. 5"),
        ({"slices": 0}, "data.slices=0"),
        ({"slices": 2.5}, "data.slices=2.5"),
        ({"voxel_size": [0.5, 0.2]}, r"data.voxel_size=\[0.5, 0.2\] is not valid; give three lengths"),
        ({"voxel_size": 0.5}, "data.voxel_size=0.5"),
        ({"voxel_size": [1, 0, 1]}, "data.voxel_size=0"),
        ({"every_slice": 0}, "data.every_slice=0"),
        ({"image_size": [64]}, "data.image_size"),
        ({"window": [99, 1]}, "data.window"),
        ({"classes": ["a", "b"]}, "objects of one class"),
    ],
)
def test_values_that_are_not_allowed_are_one_line(folder, values, match):
    with pytest.raises(UserError, match=match) as caught:
        built(folder, **values)
    assert "\n" not in str(caught.value)


TRUTH = "01_GT/SEG/man_seg001.tif"


@pytest.mark.parametrize(
    ("place", "shape", "dtype", "match"),
    [
        ("01/t001.tif", (6, 48, 48, 3), "uint8", "t001.tif has 3 channels per pixel"),
        ("01/t001.tif", (48, 48, 6), "uint16", "t001.tif has 48 pages of 48 x 6 pixels"),
        ("01/t001.tif", (1, 48, 48), "uint16", "t001.tif is a 2-D image"),
        ("01/t001.tif", (6, 48, 48), "float32", "t001.tif has floating-point numbers"),
        (TRUTH, (5, 48, 48), "uint16", "5 x 48 x 48 voxels, but its volume 6 x"),
        (TRUTH, (6, 48, 48), "uint32", "man_seg001.tif has 32 bits per value"),
    ],
)
def test_files_that_are_not_sound_are_one_line_and_nothing_is_written(tmp_path, place, shape, dtype, match):
    folder = write_ctc(tmp_path / "ctc")
    assert cv2.imwritemulti(str(folder / place), list(np.zeros(shape, dtype)))
    with pytest.raises(UserError, match=match) as caught:
        built(folder, cache_dir=str(tmp_path / "cache"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*.npy"))
