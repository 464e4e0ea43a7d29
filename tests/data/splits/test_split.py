from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polymask.data.records import Record
from polymask.data.sources.coco import CocoObject, CocoObjects
from polymask.data.splits.split import (
    SUBSETS,
    Split,
    draw_fold,
    draw_split,
    read_split_file,
    split_from_csv,
)
from polymask.data.splits.statistics import format_statistics, split_statistics
from polymask.errors import UserError

HAM_COUNTS = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}
HAM_GROUP_SIZES = {6: 4, 5: 5, 4: 34, 3: 490, 2: 1423, 1: 5514}
HAM_CLASSES = list(HAM_COUNTS)


def make_record(name: str, label: int, group: str, subset: str | None = None) -> Record:
    return Record(id=name, image_path=Path(f"{name}.jpg"), label=label, group=group, subset=subset)


def make_records(groups: list[tuple[int, ...]]) -> list[Record]:
    """One record per label of each group; names come in no special order."""
    return [
        make_record(f"i{(7919 * (10 * g + k)) % 100_003:06d}", label, f"g{g}")
        for g, labels in enumerate(groups)
        for k, label in enumerate(labels)
    ]


def random_records(seed: int, *, pure: bool) -> list[Record]:
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(rng.integers(40, 200)):
        labels = rng.choice([-1, 0, 1, 2], p=[0.1, 0.6, 0.2, 0.1], size=rng.integers(1, 9))
        groups.append(tuple(int(label) for label in (labels[:1].repeat(len(labels)) if pure else labels)))
    return make_records(groups)


def ham_like_records() -> list[Record]:
    """The structure of HAM10000: its class counts, its lesion sizes, one class per lesion."""
    rng = np.random.default_rng(123)
    left = np.array(list(HAM_COUNTS.values()))
    groups = []
    for size, count in HAM_GROUP_SIZES.items():
        for _ in range(count):
            weights = np.where(left >= size, left, 0)
            label = int(rng.choice(len(left), p=weights / weights.sum()))
            left[label] -= size
            groups.append((label,) * size)
    records = make_records(groups)
    assert left.sum() == 0
    assert (len(records), len(groups)) == (10_015, 7470)
    return records


def frame(split: Split, records: list[Record]) -> pd.DataFrame:
    subset_of = {name: subset for subset, names in split.subsets.items() for name in names}
    rows = [(r.id, r.group, r.label, subset_of.get(r.id)) for r in records]
    return pd.DataFrame(rows, columns=["id", "group", "label", "subset"])


def assert_sound(split: Split, records: list[Record]) -> None:
    assert sorted(name for names in split.subsets.values() for name in names) == sorted(r.id for r in records)
    assert all(names == sorted(names) for names in split.subsets.values())
    assert frame(split, records).groupby("group")["subset"].nunique().max() == 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pure", [True, False])
def test_random_groups_are_never_split_and_every_sample_is_used_once(seed, pure):
    records = random_records(seed, pure=pure)
    split = draw_split(records, ["a", "b", "c"], seed=seed)
    assert_sound(split, records)
    largest = max(Counter(r.group for r in records).values())
    for subset, fraction in zip(SUBSETS, (0.7, 0.15, 0.15), strict=True):
        assert abs(len(split.subsets[subset]) - fraction * len(records)) <= largest


@pytest.mark.parametrize("seed", range(8))
def test_every_class_with_enough_groups_is_in_every_subset(seed):
    records = random_records(seed, pure=True)
    table = frame(draw_split(records, ["a", "b", "c"], fractions=(0.9, 0.05, 0.05), seed=seed), records)
    num_groups = table.groupby("label")["group"].nunique()
    for label in num_groups[num_groups >= 3].index:
        assert set(table[table["label"] == label]["subset"]) == set(SUBSETS)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 1, 1), (4, 4, 4)])
def test_class_of_three_groups_is_in_every_subset_among_thousands(sizes):
    records = make_records([*((1,) * size for size in sizes), *[(0,)] * 2000])
    table = frame(draw_split(records, ["common", "rare"]), records)
    assert set(table[table["label"] == 1]["subset"]) == set(SUBSETS)


def test_largest_group_of_a_rare_class_goes_to_train():
    records = make_records([(1,) * 5, (1,), (1,), *[(0,)] * 100])
    split = draw_split(records, ["common", "rare"])
    assert {r.id for r in records if r.group == "g0"} <= set(split.subsets["train"])


def test_sizes_are_exact_without_groups():
    records = make_records([(0,)] * 100 + [(1,)] * 40 + [(-1,)] * 20)
    table = frame(draw_split(records, ["a", "b"], fractions=(0.6, 0.2, 0.2)), records)
    counts = pd.crosstab(table["label"], table["subset"])[list(SUBSETS)].to_numpy().tolist()
    assert counts == [[12, 4, 4], [60, 20, 20], [24, 8, 8]]  # the rows are unknown, a, b


def test_groups_of_every_size_reach_small_subsets():
    records = make_records([(0,) * 4] * 100 + [(0,)] * 400)
    table = frame(draw_split(records, ["a"], fractions=(0.8, 0.1, 0.1)), records)
    sizes = table.groupby("group").agg(size=("id", "size"), subset=("subset", "first"))
    assert Counter(sizes[sizes["size"] == 4]["subset"]) == {"train": 80, "val": 10, "test": 10}


@pytest.mark.parametrize("seed", range(4))
def test_classes_of_mixed_groups_come_within_two_images_of_their_share(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, size=300)
    records = make_records([tuple(rng.choice(4, p=[0.8, 0.15, 0.04, 0.01], size=n).tolist()) for n in sizes])
    table = frame(draw_split(records, list("abcd"), seed=seed), records)
    counts = pd.crosstab(table["label"], table["subset"])[list(SUBSETS)].to_numpy()
    wanted = counts.sum(axis=1, keepdims=True) * np.array([0.7, 0.15, 0.15])
    assert np.abs(counts - wanted).max() < 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ham10000_like_table_keeps_shares_and_sizes(seed):
    records = ham_like_records()
    split = draw_split(records, HAM_CLASSES, seed=seed)
    assert_sound(split, records)
    table = frame(split, records)
    shares = pd.crosstab(table["label"], table["subset"], normalize="columns")
    overall = table["label"].value_counts(normalize=True).sort_index()
    assert shares.sub(overall, axis=0).abs().to_numpy().max() < 0.01
    sizes = table["subset"].value_counts(normalize=True)
    assert np.abs(sizes[list(SUBSETS)].to_numpy() - [0.7, 0.15, 0.15]).max() < 0.005


def test_subset_of_fraction_zero_stays_empty_without_a_warning(caplog):
    records = make_records([(0,)] * 10)
    split = draw_split(records, ["a"], fractions=(0.8, 0.2, 0.0))
    assert [len(split.subsets[subset]) for subset in SUBSETS] == [8, 2, 0]
    assert caplog.text == ""


def test_order_of_the_records_does_not_matter_and_the_seed_does():
    records = random_records(3, pure=False)
    shuffled = [records[index] for index in np.random.default_rng(9).permutation(len(records))]
    split = draw_split(records, ["a", "b", "c"], seed=5)
    assert draw_split(shuffled, ["a", "b", "c"], seed=5) == split
    assert draw_split(shuffled, ["a", "b", "c"], seed=5).to_csv() == split.to_csv()
    assert draw_split(records, ["a", "b", "c"], seed=6).sha256 != split.sha256


def test_hash_seed_of_the_interpreter_does_not_matter():
    code = (
        "from test_split import draw_split, random_records\n"
        "print(draw_split(random_records(3, pure=False), ['a', 'b', 'c'], seed=5).sha256)"
    )
    paths = [str(Path(__file__).parent), str(Path(sys.modules["polymask"].__path__[0]).parent)]
    hashes = set()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(paths)}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        hashes.add(run.stdout.strip())
    assert hashes == {draw_split(random_records(3, pure=False), ["a", "b", "c"], seed=5).sha256}


def test_class_with_too_few_groups_is_warned_of(caplog):
    records = make_records([*[(0,)] * 30, (1,), (1,)])
    draw_split(records, ["common", "rare"])
    assert len(caplog.records) == 1
    assert "no image of class rare in " in caplog.text
    assert "the class has 2 groups" in caplog.text


def test_too_few_groups_leave_a_subset_empty():
    with pytest.raises(UserError, match=r"leaves .* empty: the data has only 2 groups"):
        draw_split(make_records([(0, 0, 0), (0, 0)]), ["a"])


def test_three_groups_fill_three_subsets():
    split = draw_split(make_records([(0,), (1,), (2,)]), ["a", "b", "c"])
    assert [len(names) for names in split.subsets.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    "fractions",
    [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.8, 0.2), (float("nan"), 0.5, 0.5), 0.8, ("a", "b", "c")],
)
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(UserError, match=r"data\.fractions=.* three numbers >= 0 .* sum to 1"):
        draw_split(make_records([(0,)] * 10), ["a"], fractions=fractions)


@pytest.mark.parametrize("num_folds", [3, 5])
@pytest.mark.parametrize("pure", [True, False])
def test_over_all_folds_every_sample_is_tested_and_validated_once(num_folds, pure):
    records = random_records(num_folds, pure=pure)
    names = sorted(r.id for r in records)
    folds = [
        draw_fold(records, ["a", "b", "c"], num_folds=num_folds, fold=fold, seed=1)
        for fold in range(num_folds)
    ]
    for fold, split in enumerate(folds):
        assert_sound(split, records)
        assert split.subsets["val"] == folds[(fold + 1) % num_folds].subsets["test"]
    assert sorted(name for split in folds for name in split.subsets["test"]) == names


def test_folds_of_a_ham10000_like_table_are_equal():
    records = ham_like_records()
    for fold in range(5):
        rows = split_statistics(
            draw_fold(records, HAM_CLASSES, num_folds=5, fold=fold, seed=0), records, HAM_CLASSES
        )
        assert [row["images"] for row in rows[:3]] == pytest.approx([6009, 2003, 2003], abs=10)
        assert max(row["largest_deviation"] for row in rows) < 1


@pytest.mark.parametrize("num_folds", [2, 0, "five", None])
def test_bad_number_of_folds_is_refused(num_folds):
    with pytest.raises(UserError, match=rf"data\.num_folds={num_folds} .*at least 3"):
        draw_fold(make_records([(0,)] * 10), ["a"], num_folds=num_folds, fold=0, seed=0)


@pytest.mark.parametrize("fold", [-1, 5, None])
def test_fold_out_of_range_is_refused(fold):
    with pytest.raises(UserError, match=rf"data\.fold={fold} .*0 to 4"):
        draw_fold(make_records([(0,)] * 10), ["a"], num_folds=5, fold=fold, seed=0)


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(UserError, match=r"data\.num_folds=5 leaves a fold empty: .* 4 groups"):
        draw_fold(make_records([(0, 0)] * 4), ["a"], num_folds=5, fold=0, seed=0)


def prescribed_records(subset: str = "test", num: int = 7) -> list[Record]:
    """Records that the data set itself puts into a subset, with names between those of the others."""
    return [make_record(f"i{5000 * k:06d}p", k % 2, f"p{k // 2}", subset) for k in range(num)]


def without(split: Split, ids: set[str]) -> dict[str, list[str]]:
    return {subset: [name for name in names if name not in ids] for subset, names in split.subsets.items()}


@pytest.mark.parametrize("subset", SUBSETS)
def test_prescribed_samples_go_to_their_subset_and_the_others_are_drawn_as_if_alone(subset):
    free, fixed = random_records(4, pure=True), prescribed_records(subset)
    ids = {record.id for record in fixed}
    fractions = tuple(0.0 if name == subset else 0.5 for name in SUBSETS)
    split = draw_split([*fixed, *free], ["a", "b", "c"], fractions=fractions, seed=3)
    assert_sound(split, [*free, *fixed])
    assert ids == set(split.subsets[subset])
    assert without(split, ids) == draw_split(free, ["a", "b", "c"], fractions=fractions, seed=3).subsets


def test_official_split_of_a_challenge():
    records = [make_record(f"i{k:04d}", -1, f"i{k:04d}", None if k < 900 else "test") for k in range(1279)]
    split = draw_split(records, [], fractions=[0.8, 0.2, 0.0])
    assert [len(names) for names in split.subsets.values()] == [720, 180, 379]
    assert split.subsets["test"] == [f"i{k:04d}" for k in range(900, 1279)]
    assert split_from_csv(split.to_csv()) == split


def test_share_for_a_prescribed_subset_is_refused():
    message = r"\[0\.7, 0\.15, 0\.15\] gives test a share, .* \(7 samples\)\. Give it 0, .*\[0\.8,0\.2,0\]"
    with pytest.raises(UserError, match=message):
        draw_split([*random_records(0, pure=True), *prescribed_records()], [], fractions=[0.7, 0.15, 0.15])


def test_fractions_do_not_matter_when_every_sample_is_prescribed():
    records = [make_record(name, 0, name, subset) for name, subset in zip("cab", SUBSETS, strict=True)]
    assert draw_split(records, ["a"]).subsets == {"train": ["c"], "val": ["a"], "test": ["b"]}


@pytest.mark.parametrize("draw", [draw_split, draw_fold])
def test_group_that_is_partly_prescribed_stops_the_run(draw):
    records = [*random_records(0, pure=True), make_record("x", 0, "g3", "test")]
    options = {"fractions": [0.8, 0.2, 0]} if draw is draw_split else {"num_folds": 5, "fold": 0, "seed": 0}
    with pytest.raises(
        UserError, match=r"group 'g3' is partly prescribed: .* 'x' into test, but leaves 'i\d+'"
    ):
        draw(records, [], **options)


def test_group_that_is_prescribed_for_two_subsets_stops_the_run():
    records = [make_record(name, 0, "g", subset) for name, subset in zip("abc", SUBSETS, strict=True)]
    with pytest.raises(UserError, match="has group 'g' in two subsets"):
        draw_split(records, ["a"])


@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_beside_an_official_test_set_validate_every_other_sample_once(num_folds):
    free, fixed = random_records(6, pure=True), prescribed_records()
    validated = []
    for fold in range(num_folds):
        split = draw_fold([*free, *fixed], ["a", "b", "c"], num_folds=num_folds, fold=fold, seed=1)
        assert_sound(split, [*free, *fixed])
        assert split.subsets["test"] == sorted(record.id for record in fixed)
        assert len(split.subsets["val"]) == pytest.approx(len(free) / num_folds, abs=8)
        validated += split.subsets["val"]
    assert sorted(validated) == sorted(record.id for record in free)


@pytest.mark.parametrize(("subset", "least"), [("test", 2), ("val", 2), ("train", 3)])
def test_too_few_folds_beside_prescribed_samples_are_refused(subset, least):
    records = [*random_records(0, pure=True), *prescribed_records(subset)]
    draw_fold(records, [], num_folds=least, fold=0, seed=0)
    with pytest.raises(UserError, match=f"whole number of at least {least}"):
        draw_fold(records, [], num_folds=least - 1, fold=0, seed=0)


def test_folds_with_nothing_left_to_draw_are_refused():
    records = [*random_records(0, pure=True), *prescribed_records("val"), make_record("x", 0, "x", "test")]
    with pytest.raises(UserError, match=r"data\.num_folds=5 leaves nothing to draw"):
        draw_fold(records, [], num_folds=5, fold=0, seed=0)


def hand_made_split() -> Split:
    return Split(
        subsets={"train": ["a", "c,1"], "val": ["d"], "test": ["b"]},
        groups={"a": "g", "b": "h", "c,1": "g", "d": "k"},
        labels={"a": "nv", "b": "", "c,1": "mel", "d": "nv"},
    )


def test_csv_text_hash_and_file(tmp_path):
    text = 'id,group,label,subset\na,g,nv,train\nb,h,,test\n"c,1",g,mel,train\nd,k,nv,val\n'
    split = hand_made_split()
    assert split.to_csv() == text
    assert split.sha256 == hashlib.sha256(text.encode()).hexdigest()
    split.write(tmp_path / "deep" / "split.csv")
    split.write(tmp_path / "deep" / "split.csv")
    assert (tmp_path / "deep" / "split.csv").read_bytes() == text.encode()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["split.csv"]
    assert split_from_csv(text) == split


def test_csv_of_a_drawn_split_holds_class_names_and_comes_back_whole():
    records = random_records(0, pure=False)
    split = draw_split(records, ["a", "b", "c"])
    names = {0: "a", 1: "b", 2: "c", -1: ""}
    assert split.labels == {r.id: names[r.label] for r in records}
    assert split_from_csv(split.to_csv()) == split
    assert split_from_csv(split.to_csv()).sha256 == split.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the split is empty"),
        ("id,group,subset\na,g,train\n", r"no column label\. Found: id, group, subset"),
        ("id,group,label,subset\na,g,,train\na,g,,train\n", "repeats 1 ids: a"),
        ("id,group,label,subset\na,g,,trian\n", r"subset of 'a'='trian' is unknown\. Did you mean 'train'\?"),
        ("id,group,label,subset\na,g,,train\nb,g,,val\n", r"group 'g' in two subsets, train and val \(b\)"),
    ],
)
def test_bad_csv_text_is_named(text, message):
    with pytest.raises(UserError, match=message):
        split_from_csv(text)


FOUR = [
    make_record("a", 0, "g"),
    make_record("b", -1, "h"),
    make_record("c", 1, "g"),
    make_record("d", 0, "k"),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "split.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("columns", ["id,subset", "image_id,split", "Image,Subset"])
def test_split_file_is_read_with_any_of_its_names(tmp_path, columns):
    path = write(tmp_path, f"{columns}\na,train\nc, TRAIN\nd,Validation\nb,test\n")
    split = read_split_file(path, FOUR, ["nv", "mel"])
    assert split.subsets == {"train": ["a", "c"], "val": ["d"], "test": ["b"]}
    assert split.groups == {"a": "g", "b": "h", "c": "g", "d": "k"}
    assert split.labels == {"a": "nv", "b": "", "c": "mel", "d": "nv"}


def test_split_file_written_by_a_split_gives_the_same_split(tmp_path):
    records = random_records(2, pure=True)
    split = draw_split(records, ["a", "b", "c"])
    split.write(tmp_path / "split.csv")
    assert read_split_file(tmp_path / "split.csv", records, ["a", "b", "c"]) == split


def test_split_file_without_class_names_leaves_the_labels_empty(tmp_path, caplog):
    split = read_split_file(write(tmp_path, "id,subset\na,train\nc,train\nd,valid\nb,test\n"), FOUR)
    assert set(split.labels.values()) == {""}
    assert caplog.text == ""


def test_records_that_the_split_file_does_not_name_are_left_out_with_a_note(tmp_path, caplog):
    split = read_split_file(write(tmp_path, "id,subset\na,train\nd,val\n"), FOUR)
    assert split.subsets == {"train": ["a"], "val": ["d"], "test": []}
    assert "leaves out 2 of 4 samples: b, c" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,subset\na,train\nx,val\ny,val\n", r"names 2 ids that the data does not have: x, y\."),
        ("id,subset\na,train\na,val\n", r"split\.csv repeats 1 ids: a\."),
        ("id,subset\na,training\n", r"subset of 'a'='training' is unknown\. .*Allowed: train, val, valid"),
        ("id,subset\na,train\nc,test\n", r"group 'g' in two subsets, train and test \(c\)"),
        ("name,subset\na,train\n", r"no column id or image_id or image\. Found: name, subset"),
        ("id,sub_set\na,train\n", r"no column subset or split\. .*Did you mean 'sub_set'\?"),
        ("id,subset\n", "is empty"),
    ],
)
def test_bad_split_file_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_split_file(write(tmp_path, text), FOUR)


def test_absent_split_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv cannot be read: No such file"):
        read_split_file(tmp_path / "none.csv", FOUR)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_split_file(tmp_path, FOUR)


def test_statistics_of_a_hand_made_split():
    records = [
        make_record(name, label, name[0])
        for name, label in zip("abcdefgh", [0, 0, 0, 1, 0, 1, 0, 0], strict=True)
    ]
    records += [make_record("a2", 0, "a"), make_record("h2", -1, "h")]
    subset_of = (
        dict.fromkeys(["a", "a2", "b", "c", "d"], "train") | dict.fromkeys("efgh", "val") | {"h2": "val"}
    )
    subsets = {subset: sorted(n for n, s in subset_of.items() if s == subset) for subset in SUBSETS}
    split = Split(subsets=subsets, groups={r.id: r.group for r in records}, labels={})
    train, val, test, everything = split_statistics(split, records, ["nv", "mel"])
    assert train == {
        "subset": "train",
        "images": 5,
        "groups": 4,
        "counts": {"nv": 4, "mel": 1, "unknown": 0},
        "shares": {"nv": 80.0, "mel": 20.0, "unknown": 0.0},
        "largest_deviation": 10.0,
    }
    assert (val["images"], val["groups"], val["counts"]) == (5, 4, {"nv": 3, "mel": 1, "unknown": 1})
    assert (test["images"], test["groups"], test["largest_deviation"]) == (0, 0, 0.0)
    assert everything["shares"] == {"nv": 70.0, "mel": 20.0, "unknown": 10.0}
    assert (everything["subset"], everything["groups"]) == ("all", 8)


def test_table_of_statistics():
    split = Split(subsets={"train": ["a", "c"], "val": ["d"], "test": []}, groups={}, labels={})
    assert format_statistics(split, FOUR, ["nv", "mel"]).splitlines() == [
        "subset  images  groups           nv         mel  largest deviation",
        "train        2       1   1 (50.00%)  1 (50.00%)              16.67",
        "val          1       1  1 (100.00%)   0 (0.00%)              33.33",
        "test         0       0    0 (0.00%)   0 (0.00%)               0.00",
        "all          3       2   2 (66.67%)  1 (33.33%)               0.00",
    ]


def test_statistics_without_class_names_count_images_and_groups_only():
    split = Split(subsets={"train": ["a", "c"], "val": ["b"], "test": []}, groups={}, labels={})
    assert format_statistics(split, FOUR, []).splitlines() == [
        "subset  images  groups",
        "train        2       1",
        "val          1       1",
        "test         0       0",
        "all          3       2",
    ]
    assert all(
        (row["counts"], row["shares"], row["largest_deviation"]) == ({}, {}, 0.0)
        for row in split_statistics(split, FOUR, [])
    )


def test_a_class_counts_in_every_image_that_shows_it(caplog):
    objects = tuple(CocoObject(label=label, counts=b"", crowd=False) for label in (0, 0, 1))
    truth = CocoObjects(path=Path(), image_path=Path(), name="", size=(1, 1), objects=objects)
    records = [dataclasses.replace(make_record(f"i{n}", 0, f"g{n}"), truth=truth) for n in range(6)]
    split = draw_split(records, ["often", "beside", "never"], fractions=[0.5, 0.5, 0])
    assert "no image of class never in train, val" in caplog.text
    assert "beside" not in caplog.text
    rows = {row["subset"]: row for row in split_statistics(split, records, ["often", "beside", "never"])}
    assert rows["all"]["counts"] == {"often": 6, "beside": 6, "never": 0}
    assert rows["train"]["shares"]["beside"] == 100
