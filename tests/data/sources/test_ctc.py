from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from volume_files import write_ctc

from polymask.data.sources import read_ctc
from polymask.data.splits.plan import SplitPlan
from polymask.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_ctc(tmp_path / "ctc", frames=5)


def refused(folder: Path, match: str, **options) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_ctc(folder, **options)
    assert "\n" not in str(caught.value)


def subsets(folder: Path, **options) -> dict[str, list[str]]:
    records, names = read_ctc(folder, **options)
    return SplitPlan().split(records, names).subsets


def test_a_frame_is_a_record(folder):
    records, names = read_ctc(folder)
    assert names == ["cell"]
    assert [record.id for record in records] == [f"{s}/t00{f}" for s in ("01", "02") for f in range(5)]
    assert records[7].image_path == folder / "02/t002.tif"
    assert records[7].truth.path == folder / "02_GT/SEG/man_seg002.tif"
    assert records[7].truth.slices == ()
    assert {record.label for record in records} == {0}
    assert read_ctc(folder, classes=["nucleus"])[1] == ["nucleus"]


def test_annotated_slices_belong_to_their_frame(tmp_path):
    folder = write_ctc(tmp_path / "ctc", dense=False)
    record = read_ctc(folder)[0][3]
    names = [f"man_seg_001_00{z}.tif" for z in (1, 3, 5)]
    assert [(z, path.name) for z, path in record.truth.slices] == list(zip((1, 3, 5), names, strict=True))
    assert record.truth.path == folder / "02_GT/SEG"


def test_frames_without_truth_are_left_out(folder, caplog):
    caplog.set_level(logging.INFO)
    (folder / "01_GT/SEG/man_seg001.tif").unlink()
    assert [record.id for record in read_ctc(folder)[0]][:2] == ["01/t000", "01/t002"]
    assert "01: 1 of 5 frames have no gold truth and are left out: t001.tif" in caplog.text


def test_silver_truth_and_four_digits(tmp_path):
    folder = write_ctc(tmp_path / "ctc", digits=4)
    shutil.move(folder / "01_GT", folder / "01_ST")
    record = read_ctc(folder, truth="silver", sequences=["01"])[0][1]
    assert (record.id, record.truth.path) == ("01/t0001", folder / "01_ST/SEG/man_seg0001.tif")
    refused(folder, "01_GT/SEG is missing.*There is silver truth: data.reader.truth=silver")
    refused(folder, "02_ST/SEG is missing.*There is gold truth", truth="silver")
    refused(folder, "data.reader.truth='bronze' is unknown", truth="bronze")


def test_several_data_sets_keep_their_folder_in_front(tmp_path):
    write_ctc(tmp_path / "all/Fluo-A", sequences=2)
    write_ctc(tmp_path / "all/Fluo-B", sequences=1)
    ids = [record.id for record in read_ctc(tmp_path / "all")[0]]
    assert ids == [f"{name}/t00{f}" for name in ("Fluo-A/01", "Fluo-A/02", "Fluo-B/01") for f in range(2)]
    chosen = read_ctc(tmp_path / "all", sequences=["Fluo-B/01"])[0]
    assert [record.id for record in chosen] == ids[4:]
    found = subsets(tmp_path / "all")
    assert found["test"] == ids[2:4]  # the last sequence of each set that has several
    assert found["val"] == ["Fluo-A/01/t001", "Fluo-B/01/t001"]
    refused(tmp_path / "all", "no sequence 'Fluo-B/02'. Did you mean", sequences=["Fluo-B/02"])
    refused(tmp_path / "all", "names none", sequences=[])


def test_the_last_sequence_is_test_and_the_last_frames_of_the_others_val(folder):
    found = subsets(folder)
    assert found["test"] == [f"02/t00{f}" for f in range(5)]
    assert found["val"] == ["01/t004"]
    assert found["train"] == [f"01/t00{f}" for f in range(4)]
    records, names = read_ctc(folder)
    assert SplitPlan(split_seed=5).split(records, names).subsets == found


def test_frames_of_one_sequence_are_split_in_blocks(folder):
    found = subsets(folder, sequences=["01"])
    assert found == {
        "train": ["01/t000", "01/t001", "01/t002"],
        "val": ["01/t003"],
        "test": ["01/t004"],
    }


@pytest.mark.parametrize(
    ("frames", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (6, 2, 2))]
)
def test_few_frames_are_for_training_first(tmp_path, frames, sizes):
    folder = write_ctc(tmp_path / "ctc", sequences=1, frames=frames, shape=(2, 32, 32))
    found = subsets(folder)
    assert tuple(map(len, found.values())) == sizes
    assert [id_ for ids in found.values() for id_ in ids] == [f"01/t{f:03}" for f in range(frames)]


def test_whole_sequences_are_drawn_for_folds(tmp_path):
    folder = write_ctc(tmp_path / "ctc", sequences=4, shape=(2, 32, 32))
    for options in ({"num_folds": 4}, {"split": "sequences"}):
        records, names = read_ctc(folder, **options)
        assert {record.group for record in records} == {"01", "02", "03", "04"}
        tested = []
        for fold in range(4):
            split = SplitPlan(num_folds=4, fold=fold).split(records, names).subsets
            assert len({id_.partition("/")[0] for id_ in split["test"]}) == 1
            tested += split["test"]
        assert sorted(tested) == [record.id for record in records]
    refused(folder, "data.reader.split='frames' is unknown", split="frames")


def test_missing_frames_and_other_digits_are_refused(folder):
    (folder / "01/t002.tif").rename(folder / "01/t007.tif")
    refused(folder, "01 lacks 3 frames between t000.tif and t007.tif: t002.tif, t005.tif, t006.tif")
    (folder / "01/t007.tif").rename(folder / "01/t0002.tif")
    refused(folder, "t0002.tif beside t00.*all numbers of a sequence must have 3 digits, or all 4")
    (folder / "01/t0002.tif").rename(folder / "01/t002.tif")
    for number in range(5):
        (folder / f"02/t00{number}.tif").rename(folder / f"02/t0{number}.tif")
    refused(folder, "02 has t00.tif; all numbers")


def test_truth_must_be_of_a_frame(folder):
    seg = folder / "01_GT/SEG"
    (seg / "man_seg004.tif").rename(seg / "man_seg005.tif")
    refused(folder, "man_seg005.tif is the truth of no frame.*none of the numbers of t000.tif to t004.tif")
    (seg / "man_seg005.tif").rename(seg / "man_seg0004.tif")
    refused(folder, "man_seg0004.tif is the truth of no frame")
    (seg / "man_seg0004.tif").rename(seg / "man_seg004.tif")
    cv2.imwrite(str(seg / "man_seg_004_001.tif"), np.zeros((48, 48), np.uint16))
    refused(folder, "man_seg_004_001.tif and man_seg004.tif are truth of one frame; keep one")
    shutil.rmtree(seg)
    refused(folder, "01_GT/SEG is missing, the gold truth of sequence 01. The layout is")
    seg.mkdir()
    refused(folder, "01_GT/SEG holds no truth; names are man_seg000.tif")


def test_a_folder_of_another_kind_is_refused(folder, tmp_path):
    refused(tmp_path / "absent", "holds no sequence of volumes; the layout is 01/t000.tif")
    refused(folder / "01", f"holds no sequence.*Name the folder above it, data.data_dir={folder}")
    refused(folder, "volumes have objects of one class", classes=["a", "b"])
    for path in (folder / "01").iterdir():
        path.rename(path.with_name(f"img{path.name}"))
    refused(folder, r"01 holds no frames t000.tif, t001.tif, …, but other files such as imgt00")
