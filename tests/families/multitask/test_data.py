from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from isic_files import write_isic2016
from lesion_data import CLASSES, FRACTIONS, make_data

from polymask.data.module import DataModule
from polymask.data.sources import read_isic2016
from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError


def subsets(data: DataModule) -> dict[str, set[str]]:
    return {name: set(ids) for name, ids in data.split.subsets.items()}


def test_drawn_split_holds_every_image_once_and_no_lesion_twice(lesion_folder):
    data = make_data(lesion_folder)
    for name, share in zip(("train", "val", "test"), FRACTIONS, strict=True):
        assert abs(len(data.split.subsets[name]) - 24 * share) <= 2
    assert set.union(*subsets(data).values()) == {f"ISIC_{number:07d}" for number in range(1, 25)}
    lesions = [set(data.groups(ids)) for ids in data.split.subsets.values()]
    assert sum(map(len, lesions)) == len(set.union(*lesions)) == 18
    assert [sorted(record.id for record in data.subset(name)) for name in data.split.subsets] == [
        sorted(ids) for ids in data.split.subsets.values()
    ]


def test_split_depends_on_its_own_seed_and_not_on_the_seed_of_the_run(lesion_folder):
    first = subsets(make_data(lesion_folder))
    assert subsets(make_data(lesion_folder, seed=1)) == first
    assert subsets(make_data(lesion_folder, split_seed=1)) != first


def test_class_counts_are_those_of_the_table(lesion_folder):
    data = make_data(lesion_folder)
    for subset, ids in subsets(data).items():
        # The fixture numbers the images class by class, eight of each.
        expected = Counter((int(name[-2:]) - 1) // 8 for name in ids)
        assert data.class_counts(subset) == [expected[label] for label in range(3)]
    assert np.sum([data.class_counts(subset) for subset in subsets(data)], axis=0).tolist() == [8, 8, 8]


def test_image_of_unknown_class_counts_for_none(lesion_folder):
    table = lesion_folder / "metadata.csv"
    table.write_text(table.read_text().replace(",mel", ",", 1))
    data = make_data(lesion_folder)
    assert sum(sum(data.class_counts(subset)) for subset in data.split.subsets) == 23


def test_folds_test_every_image_once(lesion_folder):
    folds = [subsets(make_data(lesion_folder, num_folds=3, fold=fold)) for fold in range(3)]
    tested = [name for fold in folds for name in fold["test"]]
    assert sorted(tested) == [f"ISIC_{number:07d}" for number in range(1, 25)]
    assert [fold["val"] for fold in folds] == [folds[(number + 1) % 3]["test"] for number in range(3)]
    assert all(len(set.union(*fold.values())) == 24 for fold in folds)


def test_split_file_wins_over_fractions(lesion_folder, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("image,split\nISIC_0000001,train\nISIC_0000009,VAL\nISIC_0000017,test\n")
    data = make_data(lesion_folder, split_file=str(path))
    assert subsets(data) == {"train": {"ISIC_0000001"}, "val": {"ISIC_0000009"}, "test": {"ISIC_0000017"}}


def test_relative_paths_are_meant_from_the_project_root(lesion_folder, project):
    (project / "split.csv").write_text("image,split\nISIC_0000001,train\n")
    data = make_data("lesions", split_file="split.csv", cache_dir="samples")
    assert len(list(data.train_loader())) == 1
    assert list((project / "samples").glob("*.rows"))


def test_split_of_a_checkpoint_wins_over_all(lesion_folder, tmp_path):
    stored = split_from_csv(make_data(lesion_folder, split_seed=5).split.to_csv())
    data = make_data(lesion_folder, split=stored, split_file=str(tmp_path / "none.csv"), num_folds=99)
    assert data.split == stored


def test_overfit_samples_are_the_same_in_all_subsets_also_after_a_resume(lesion_folder):
    data = make_data(lesion_folder, overfit_samples=5)
    expected = make_data(lesion_folder).split.subsets["train"][:5]
    assert data.split.subsets == {"train": expected, "val": expected, "test": expected}
    resumed = make_data(lesion_folder, overfit_samples=5, split=split_from_csv(data.split.to_csv()))
    assert resumed.split.subsets == data.split.subsets


def test_fingerprint_is_equal_for_equal_data(lesion_folder):
    assert make_data(lesion_folder).fingerprint() == make_data(lesion_folder, split_seed=3).fingerprint()


def grow_image(folder: Path) -> None:
    path = folder / "images" / "ISIC_0000001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")


def remove_mask(folder: Path) -> None:
    (folder / "masks" / "ISIC_0000001_segmentation.png").unlink()


def relabel(folder: Path) -> None:
    table = folder / "metadata.csv"
    table.write_text(table.read_text().replace(",mel", ",nv", 1))


def regroup(folder: Path) -> None:
    table = folder / "metadata.csv"
    table.write_text(table.read_text().replace("HAM_MEL_0", "HAM_MEL_9", 1))


@pytest.mark.parametrize("change", [grow_image, remove_mask, relabel, regroup])
def test_fingerprint_changes_with_the_data(lesion_folder, change):
    before = make_data(lesion_folder).fingerprint()
    change(lesion_folder)
    assert make_data(lesion_folder).fingerprint() != before


def test_file_that_vanished_is_a_user_error(lesion_folder):
    data = make_data(lesion_folder)
    (lesion_folder / "images" / "ISIC_0000001.jpg").unlink()
    with pytest.raises(UserError, match=r"cannot read .*ISIC_0000001\.jpg: No such file"):
        data.fingerprint()


def test_train_loader_gives_full_shuffled_batches(lesion_folder):
    loader = make_data(lesion_folder, batch_size=5).train_loader()
    loader.batch_sampler.start_epoch(0)
    batches = list(loader)
    assert [tuple(batch["image"].shape) for batch in batches] == [(5, 32, 48, 3)] * 2
    loader.batch_sampler.start_epoch(1)
    assert [batch["ids"] for batch in loader] != [batch["ids"] for batch in batches]


def test_weighted_sampler_draws_rare_classes_as_often(lesion_folder, tmp_path):
    path = tmp_path / "split.csv"  # 8 of MEL, 1 of NV
    path.write_text("id,subset\n" + "".join(f"ISIC_{number:07d},train\n" for number in range(1, 10)))
    loader = make_data(lesion_folder, split_file=str(path), sampler="weighted", batch_size=9).train_loader()
    counts = Counter[int]()
    for epoch in range(40):
        loader.batch_sampler.start_epoch(epoch)
        counts.update(label for batch in loader for label in batch["label"].tolist())
    # 360 draws, half of each class: standard deviation 9.5.
    assert counts[0] + counts[1] == 360
    assert counts[1] == pytest.approx(180, abs=40)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_loaders_of_all_processes_give_each_sample_once(lesion_folder, world_size):
    data = make_data(lesion_folder, eval_batch_size=2)
    loaders = [data.evaluation_loader("val", rank=rank, world_size=world_size) for rank in range(world_size)]
    ids = [name for loader in loaders for batch in loader for name in batch["ids"]]
    assert sorted(ids) == sorted(data.split.subsets["val"])


def test_evaluation_batches_are_twice_as_large_unless_told(lesion_folder):
    for options, size in (({}, 4), ({"eval_batch_size": 3}, 3)):
        data = make_data(lesion_folder, batch_size=2, **options)
        whole, rest = divmod(len(data.split.subsets["val"]), size)
        expected = [size] * whole + [rest] * (rest > 0)
        assert [len(batch["ids"]) for batch in data.evaluation_loader("val")] == expected


def test_masks_of_batches_are_those_on_disk(lesion_folder):
    data = make_data(lesion_folder, image_size=[48, 64], segmentation="multiclass")
    for batch in data.evaluation_loader("test"):
        for name, mask, label in zip(batch["ids"], batch["mask"], batch["label"], strict=True):
            path = lesion_folder / "masks" / f"{name}_segmentation.png"
            stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(mask, (stored > 0) * (int(label) + 1))


def test_statistics_name_subsets_and_classes(lesion_folder):
    lines = make_data(lesion_folder).statistics().splitlines()
    assert [line.split()[0] for line in lines] == ["subset", "train", "val", "test", "all"]
    assert lines[0].split()[3:6] == CLASSES
    assert lines[4].split()[1:3] == ["24", "18"]


def test_split_of_other_data_is_a_user_error_that_counts_and_names_the_missing(lesion_folder):
    data = make_data(lesion_folder)
    train = [*data.split.subsets["train"], "other_1", "other_2"]
    split = dataclasses.replace(data.split, subsets=data.split.subsets | {"train": train})
    message = rf"2 of {len(train)} train samples of the split are not in the data set, e\.g\. 'other_1'"
    with pytest.raises(UserError, match=message):
        make_data(lesion_folder, split=split).train_loader()


@pytest.mark.parametrize("subset", ["val", "test"])
def test_empty_subset_is_a_user_error(lesion_folder, subset):
    fractions = (0.5, 0.0, 0.5) if subset == "val" else (0.5, 0.5, 0.0)
    data = make_data(lesion_folder, fractions=fractions)
    with pytest.raises(UserError, match=f"the {subset} subset is empty; give it a share in data.fractions"):
        data.evaluation_loader(subset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmentation": "binry"}, r"data\.segmentation='binry' is unknown\. Did you mean 'binary'\?"),
        ({"sampler": "weightd"}, r"data\.sampler='weightd' is unknown\. Did you mean 'weighted'\?"),
        (
            {"classes": ["BCC"], "allow_absent": True},
            r"data\.classes=\['BCC'\] leaves no sample of .*lesions",
        ),
        (
            {"classes": [], "segmentation": "multiclass"},
            r"multiclass needs classes, .* data\.segmentation=binary",
        ),
        ({"classes": [], "sampler": "weighted"}, r"weighted needs classes, .* data\.sampler=shuffle"),
        ({"classes": ["NV", "NV"]}, r"data\.classes=\['NV', 'NV'\] must be a list of different names"),
        ({"classes": ["MEL", "NV", "XYZ"]}, r"data\.classes names 'XYZ', but no image"),
        ({"batch_size": 0}, r"data\.batch_size=0 is not valid; .* at least 1"),
        ({"batch_size": 2.5}, r"data\.batch_size=2\.5 is not valid"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size=0 is not valid; .* at least 1"),
        ({"num_workers": -1}, r"data\.num_workers=-1 is not valid; .* at least 0"),
        ({"image_size": 31}, r"data\.image_size=31 is not valid; .* >= 32 pixels"),
        ({"image_size": [64]}, r"data\.image_size=\[64\] is not valid"),
        ({"image_size": [64, 64, 3]}, r"data\.image_size=\[64, 64, 3\] is not valid"),
        ({"image_size": 64.5}, r"data\.image_size=64\.5 is not valid"),
        ({"image_size": None}, r"data\.image_size=None is not valid"),
        ({"image_size": "64x64"}, r"data\.image_size=64x64 is not valid"),
        ({"num_folds": 0}, r"data\.num_folds=0 is not valid"),
        ({"num_folds": 3, "fold": 3}, r"data\.fold=3 is not valid\. Allowed: 0 to 2"),
        ({"overfit_samples": 0}, r"data\.overfit_samples=0 is not valid; .* at least 1"),
        ({"fractions": [0.9, 0.2, 0.1]}, r"data\.fractions=\[0\.9, 0\.2, 0\.1\] is not a split"),
        ({"split_file": "/nowhere.csv"}, r"/nowhere\.csv cannot be read"),
        ({"data_dir": "/nowhere"}, r"data\.data_dir='/nowhere' is not a folder"),
    ],
)
def test_bad_arguments_are_user_errors(lesion_folder, options, message):
    with pytest.raises(UserError, match=message):
        make_data(lesion_folder, **options)


def make_isic_data(folder: Path, **options) -> DataModule:
    settings = {"reader": read_isic2016, "classes": [], "fractions": (0.8, 0.2, 0.0)}
    return make_data(folder, **(settings | options))


def test_data_without_classes_keeps_its_official_test_set(project):
    data = make_isic_data(write_isic2016(project / "isic", num_train=10, num_test=4))
    assert [len(ids) for ids in data.split.subsets.values()] == [8, 2, 4]
    assert data.split.subsets["test"] == [f"ISIC_{number:07d}" for number in range(10, 14)]
    assert [data.class_counts(subset) for subset in data.split.subsets] == [[], [], []]
    assert data.statistics().splitlines() == [
        "subset  images  groups",
        "train        8       8",
        "val          2       2",
        "test         4       4",
        "all         14      14",
    ]
    batches = [*data.train_loader(), *data.evaluation_loader("val"), *data.evaluation_loader("test")]
    assert sum(len(batch["ids"]) for batch in batches) == 14
    for batch in batches:
        assert batch["mask_rows"] is None
        assert set(batch["label"].tolist()) == {-1}
        assert set(batch["mask"].unique().tolist()) == {0, 1}


def test_split_without_classes_comes_back_from_a_checkpoint(project):
    folder = write_isic2016(project / "isic")
    data = make_isic_data(folder)
    stored = split_from_csv(data.split.to_csv())
    assert stored == data.split
    assert make_isic_data(folder, split=stored, split_seed=7).split == data.split


def test_folds_without_a_test_folder_and_with_one(project):
    with_test = write_isic2016(project / "with", num_train=10, num_test=4)
    without = write_isic2016(project / "without", num_train=10, num_test=0)
    counts = [len(ids) for ids in make_isic_data(with_test, num_folds=2).split.subsets.values()]
    assert counts == [5, 5, 4]
    counts = [len(ids) for ids in make_isic_data(without, num_folds=5).split.subsets.values()]
    assert counts == [6, 2, 2]


def test_data_without_a_test_set_trains_and_says_so_when_tested(project):
    data = make_isic_data(write_isic2016(project / "isic", num_train=10, num_test=0))
    assert [len(ids) for ids in data.split.subsets.values()] == [8, 2, 0]
    assert len(list(data.train_loader())) == 2
    with pytest.raises(UserError, match="the test subset is empty"):
        data.evaluation_loader("test")
