"""Corrections of a data set: what they change, what stays, and what a mistake in the file looks like."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from instance_files import write_coco
from lesion_data import make_data

from polymask.data.corrections import read_corrections
from polymask.data.sources import read_coco
from polymask.errors import UserError
from polymask.families.instances import Samples as ObjectSamples
from polymask.structures.masks import IGNORE

HEAD = "id,action,value,note\n"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "corrections.csv"
    path.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    return path


def corrected(folder: Path, tmp_path: Path, *lines: str, **options):
    return make_data(folder, corrections=read_corrections(written(tmp_path, *lines)), **options)


def test_each_action_does_what_it_says(lesion_folder, tmp_path):
    before = make_data(lesion_folder)
    test_id = before.split.subsets["test"][0]
    lines = ["ISIC_0000001,relabel,nv,a mistake", f"{test_id},exclude,,", "ISIC_0000003,ignore_mask,,"]
    data = corrected(lesion_folder, tmp_path, *lines, "ISIC_0000004,keep,NV,", split=before.split)
    records = {record.id: record for record in data.records}
    assert records["ISIC_0000001"].label == 1  # whatever the case
    assert test_id not in records
    assert test_id not in {id_ for ids in data.split.subsets.values() for id_ in ids}
    assert not records["ISIC_0000003"].has_mask
    changed = {line.split(",")[0] for line in lines}
    untouched = [record for record in before.records if record.id not in changed]
    assert [records[record.id] for record in untouched] == untouched
    assert "corrections of corrections.csv: 1 relabelled, 1 excluded, 1 masks ignored (" in data.description()
    assert data.fingerprint() != before.fingerprint()


def test_an_ignored_mask_counts_nowhere_and_leaves_the_class(lesion_folder, tmp_path):
    data = corrected(lesion_folder, tmp_path, "ISIC_0000003,ignore_mask,,")
    record = next(record for record in data.records if record.id == "ISIC_0000003")
    item = data.samples.dataset([record], augmentation=None, cache_dir=None, seed=0)[0, 0, 0]
    assert (item["mask"] == IGNORE).all()
    assert item["label"] == 0


def test_an_exclusion_moves_no_other_sample(lesion_folder, tmp_path):
    before = make_data(lesion_folder, num_folds=3).split
    after = corrected(lesion_folder, tmp_path, "ISIC_0000005,exclude,,", num_folds=3).split
    assert after == before.without({"ISIC_0000005"})
    assert "ISIC_0000005" not in after.to_csv()
    assert sum(map(len, after.subsets.values())) == 23


def test_a_split_file_may_name_what_is_excluded(lesion_folder, tmp_path):
    split = make_data(lesion_folder).split
    split.write(tmp_path / "split.csv")
    options = {"split_file": str(tmp_path / "split.csv")}
    data = corrected(lesion_folder, tmp_path, "ISIC_0000005,exclude,,", **options)
    assert data.split == split.without({"ISIC_0000005"})


def test_a_file_that_keeps_everything_changes_nothing(lesion_folder, tmp_path):
    before, data = make_data(lesion_folder), corrected(lesion_folder, tmp_path, "ISIC_0000001,keep,NV,look")
    assert data.records == before.records
    assert data.split == before.split
    assert data.fingerprint() == before.fingerprint()
    assert data.description().endswith("corrections of corrections.csv: none")


def test_the_hash_is_that_of_the_file(tmp_path):
    path = written(tmp_path, "a,keep,,")
    assert read_corrections(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ISIC_0000001,remove,,", r"line 3: action='remove' is unknown\..* Allowed: keep, relabel, exclude"),
        ("ISIC_9,keep,,", r"line 3: the data have no sample 'ISIC_9'\. Did you mean"),
        ("ISIC_0000001,relabel,MLE,", r"line 3: class 'MLE' is unknown\. Did you mean 'MEL'\? Allowed: MEL"),
        ("ISIC_0000001,relabel,,", "line 3: relabel needs the name of a class"),
        ("ISIC_0000002,exclude,,", "line 3: sample 'ISIC_0000002' has exclude twice"),
        ("ISIC_0000001,keep", "malformed in line 3: 2 values for 4 columns"),
    ],
)
def test_mistakes_name_the_line(line, message, lesion_folder, tmp_path):
    with pytest.raises(UserError, match=message) as refused:
        corrected(lesion_folder, tmp_path, "ISIC_0000002,exclude,,", line)
    assert "\n" not in str(refused.value)


def test_a_column_that_is_missing_is_named(tmp_path):
    (tmp_path / "c.csv").write_text("id,value\na,b\n")
    with pytest.raises(UserError, match=r"has no column action\. Found: id, value"):
        read_corrections(tmp_path / "c.csv")


def test_objects_can_be_excluded_and_nothing_else(tmp_path):
    from data_sets import build

    folder = write_coco(tmp_path / "coco", num_images=8)
    options = {"reader": read_coco, "data_dir": str(folder), "classes": [], "batch_size": 2}
    some = build(ObjectSamples, **options).records[0].id

    def with_line(line: str):
        return build(ObjectSamples, **options, corrections=read_corrections(written(tmp_path, line)))

    assert len(with_line(f"{some},exclude,,").records) == 7
    with pytest.raises(UserError, match="line 2: ignore_mask is for samples with one mask each, not for"):
        with_line(f"{some},ignore_mask,,")
    with pytest.raises(UserError, match="line 2: relabel is for samples with one class each"):
        with_line(f"{some},relabel,any,")


def test_new_classes_reach_masks_that_tell_classes_apart(lesion_folder, tmp_path):
    options = {"segmentation": "multiclass"}
    data = corrected(lesion_folder, tmp_path, "ISIC_0000001,relabel,BKL,", **options)
    mask = next(record for record in data.records if record.id == "ISIC_0000001").read_class_mask()
    assert np.unique(mask).tolist() == [0, 3]
