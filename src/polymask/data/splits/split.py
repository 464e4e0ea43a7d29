"""Which sample is in train, val or test: drawn once, grouped and stratified, and kept as CSV text."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polymask.data.records import Record
from polymask.data.splits.drawing import deal, set_apart
from polymask.data.tables import parse_csv, read_csv, some
from polymask.errors import UserError, choose, nearest
from polymask.utils.files import write_text
from polymask.utils.names import check_inside
from polymask.utils.tables import csv_text

log = logging.getLogger(__name__)

SUBSETS = ("train", "val", "test")
_COLUMNS = ("id", "group", "label", "subset")
_ID_COLUMNS = ("id", "image_id", "image")
_SUBSET_COLUMNS = ("subset", "split")
SUBSET_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Split:
    """The samples of each subset.

    Attributes:
        subsets: Sorted ids per subset, one entry for each of `SUBSETS`.
        groups: Group per id.
        labels: Class name per id, "" when the class is unknown.
    """

    subsets: dict[str, list[str]]
    groups: dict[str, str]
    labels: dict[str, str]

    def to_csv(self) -> str:
        r"""Return the columns id, group, label, subset as text, sorted by id, lines ending in "\n"."""
        subset_of = {name: subset for subset, names in self.subsets.items() for name in names}
        names = sorted(subset_of)
        return csv_text(
            _COLUMNS, [(name, self.groups[name], self.labels[name], subset_of[name]) for name in names]
        )

    def without(self, ids: Collection[str]) -> Split:
        """Return the split without some samples; all others stay where they are."""
        return Split(
            subsets={name: [id_ for id_ in own if id_ not in ids] for name, own in self.subsets.items()},
            groups={id_: group for id_, group in self.groups.items() if id_ not in ids},
            labels={id_: label for id_, label in self.labels.items() if id_ not in ids},
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of `to_csv()` in UTF-8, as 64 hexadecimal digits."""
        return hashlib.sha256(self.to_csv().encode()).hexdigest()

    def write(self, path: str | Path) -> None:
        """Write `to_csv()` to `path`; the file is either whole or not there."""
        write_text(Path(path), self.to_csv())


def split_from_csv(text: str) -> Split:
    """Return the split that `Split.to_csv` wrote as `text`.

    Raises:
        UserError: A column is missing, an id occurs twice or is no name of a file, a subset is unknown or a
            group is split.
    """
    rows = parse_csv(text, "the split")
    for column in _COLUMNS:
        _find_column(rows, (column,), "the split")
    check_inside((row["id"] for row in rows), "the split")
    subset_of = _subset_of_rows([(row["id"], row["subset"]) for row in rows], "the split")
    groups = {row["id"]: row["group"] for row in rows}
    _check_groups(subset_of, groups, "the split")
    return _make_split(subset_of, groups, {row["id"]: row["label"] for row in rows})


def draw_split(
    records: Sequence[Record],
    class_names: Sequence[str],
    *,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Split:
    """Draw a grouped and stratified split; the order of `records` does not matter.

    No group stands in two subsets, and each class (unknown labels count as one) keeps its share in each
    subset as closely as the groups allow. A class with at least one group per subset is in every subset
    (unless its groups also hold other rare classes); a logged warning names a class that a subset lacks.
    Samples that the data set prescribes for a subset go there, and only the others are drawn.

    Args:
        records: The samples.
        class_names: Name of each label.
        fractions: Shares of train, val and test in what is drawn, summing to 1; a subset of fraction 0 gets
            nothing, as it must be where the data set prescribes the subset.
        seed: Seed of the draw.

    Raises:
        UserError: The fractions are not three shares of 1 or give a share to a prescribed subset, the groups
            are too few to fill the subsets, or a group is partly prescribed.
    """
    _check_fractions(fractions)
    prescribed, free = set_apart(records)
    if prescribed and not free:  # nothing to draw, so the fractions mean nothing
        return _split_of_records(prescribed, records, class_names, "the split")
    _check_prescribed_have_no_share(fractions, prescribed)
    part_of = deal(free, fractions, seed)
    for part, subset in enumerate(SUBSETS):
        if fractions[part] > 0 and part not in part_of.values():
            raise UserError(
                f"data.fractions={fractions} leaves {subset} empty: the data has only "
                f"{_num_groups(free)} groups to draw. Add data, or give {subset} the fraction 0."
            )
    subset_of = prescribed | {name: SUBSETS[part] for name, part in part_of.items()}
    return _split_of_records(subset_of, records, class_names, "the split")


def draw_fold(
    records: Sequence[Record], class_names: Sequence[str], *, num_folds: int, fold: int, seed: int
) -> Split:
    """Draw one fold of a cross-validation: over all folds every sample is tested exactly once.

    The samples are dealt into `num_folds` equal parts as in `draw_split`. Part `fold` is the test subset,
    the part after it (cyclically) is val and the rest is train. Where the data set prescribes the test
    subset, that one is kept: of the other samples part `fold` is val and the rest is train.

    Args:
        records: The samples.
        class_names: Name of each label.
        num_folds: Number of parts, at least 3, or 2 with a prescribed test subset.
        fold: Which fold, 0 to num_folds - 1.
        seed: Seed of the draw, the same for all folds of one cross-validation.

    Raises:
        UserError: `num_folds` or `fold` is out of range, there are fewer groups than folds, a group is partly
            prescribed, or the data set prescribes both val and test.
    """
    prescribed, free = set_apart(records)
    if not free:
        raise UserError(
            f"data.num_folds={num_folds} leaves nothing to draw: the data set prescribes the subset of every "
            "image. Leave it out, or use one annotation file for all (data.reader.annotations)."
        )
    drawn = [subset for subset in ("test", "val") if subset not in prescribed.values()]
    if not drawn:
        raise UserError(
            f"data.num_folds={num_folds} leaves nothing to draw: the data set prescribes val and test. "
            "Leave it out."
        )
    least = len(drawn) + 1
    if not isinstance(num_folds, int) or num_folds < least:
        raise UserError(f"data.num_folds={num_folds} is not valid. Give a whole number of at least {least}.")
    if not isinstance(fold, int) or not 0 <= fold < num_folds:
        raise UserError(
            f"data.fold={fold} is not valid. Allowed: 0 to {num_folds - 1}, as data.num_folds says."
        )
    part_of = deal(free, [1 / num_folds] * num_folds, seed)
    if len(set(part_of.values())) < num_folds:
        raise UserError(
            f"data.num_folds={num_folds} leaves a fold empty: the data has only {_num_groups(free)} "
            "groups to draw. Lower data.num_folds, or add data."
        )
    subset_of_part = {(fold + place) % num_folds: subset for place, subset in enumerate(drawn)}
    subset_of = prescribed | {name: subset_of_part.get(part, "train") for name, part in part_of.items()}
    return _split_of_records(subset_of, records, class_names, f"fold {fold}")


def read_split_file(path: str | Path, records: Sequence[Record], class_names: Sequence[str] = ()) -> Split:
    """Read a ready-made split, `data.split_file`: a CSV with an id column and a subset column.

    The id column is `id`, `image_id` or `image`; the other is `subset` or `split`, with the values train,
    val (also valid, validation) and test in any case. Records that the file does not name are left out
    with a logged note.

    Args:
        path: The CSV file.
        records: The samples.
        class_names: Name of each label; without them the labels of the split stay empty.

    Raises:
        UserError: The file is unreadable, lacks a column, names an id twice or one that `records` do not
            have, holds an unknown subset, or puts a group into two subsets.
    """
    source = f"data.split_file {path}"
    rows = read_csv(path)
    names = [row[_find_column(rows, _ID_COLUMNS, source)].strip() for row in rows]
    words = [row[_find_column(rows, _SUBSET_COLUMNS, source)] for row in rows]
    subset_of = _subset_of_rows(zip(names, words, strict=True), source)
    left_out = [record.id for record in records if record.id not in subset_of]
    if left_out:
        log.warning("%s leaves out %d of %d samples: %s", source, len(left_out), len(records), some(left_out))
    return _split_of_records(subset_of, records, class_names, source)


def _check_fractions(fractions: Sequence[float]) -> None:
    try:
        valid = len(fractions) == len(SUBSETS) and all(fraction >= 0 for fraction in fractions)
        valid = valid and math.isclose(sum(fractions), 1.0, abs_tol=1e-6)
    except TypeError:
        valid = False
    if not valid:
        raise UserError(
            f"data.fractions={fractions} is not a split. Give three numbers >= 0 for {', '.join(SUBSETS)} "
            "that sum to 1, such as [0.7, 0.15, 0.15]."
        )


def _check_prescribed_have_no_share(fractions: Sequence[float], prescribed: Mapping[str, str]) -> None:
    for fraction, subset in zip(fractions, SUBSETS, strict=True):
        num_samples = list(prescribed.values()).count(subset)
        if fraction > 0 and num_samples:
            raise UserError(
                f"data.fractions={fractions} gives {subset} a share, but the data set prescribes that subset "
                f"({num_samples} samples). Give it 0, e.g. data.fractions=[0.8,0.2,0] for a prescribed test."
            )


def _find_column(rows: Sequence[Mapping[str, str]], names: Sequence[str], source: str) -> str:
    columns = list(rows[0])
    for name in names:
        if name in columns:
            return name
    hint = nearest(names[0], columns)
    raise UserError(f"{source} has no column {' or '.join(names)}. Found: {', '.join(columns)}.{hint}")


def _subset_of_rows(rows: Iterable[tuple[str, str]], source: str) -> dict[str, str]:
    subset_of: dict[str, str] = {}
    repeated = []
    for name, word in rows:
        if name in subset_of:
            repeated.append(name)
        word = choose(f"{source}: subset of {name!r}", word.strip().lower(), SUBSET_WORDS)
        subset_of[name] = SUBSET_WORDS[word]
    if repeated:
        raise UserError(f"{source} repeats {len(repeated)} ids: {some(repeated)}. Keep one row each.")
    return subset_of


def _split_of_records(
    subset_of: Mapping[str, str], records: Sequence[Record], class_names: Sequence[str], source: str
) -> Split:
    """Return the split, checked against the records; a class that a subset lacks is warned of."""
    groups = {record.id: record.group for record in records}
    names = dict(enumerate(class_names))
    labels = {record.id: names.get(record.label, "") for record in records}
    _check_fits(subset_of, groups, source)
    split = _make_split(subset_of, groups, labels)
    _warn_of_absent_classes(split, records, class_names, source)
    return split


def _make_split(subset_of: Mapping[str, str], groups: Mapping[str, str], labels: Mapping[str, str]) -> Split:
    subsets: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
    for name in sorted(subset_of):
        subsets[subset_of[name]].append(name)
    return Split(
        subsets=subsets,
        groups={name: groups[name] for name in sorted(subset_of)},
        labels={name: labels[name] for name in sorted(subset_of)},
    )


def _check_fits(subset_of: Mapping[str, str], groups: Mapping[str, str], source: str) -> None:
    unknown = [name for name in subset_of if name not in groups]
    if unknown:
        raise UserError(
            f"{source} names {len(unknown)} ids that the data does not have: {some(unknown)}. "
            "Use the data that it was made from, or delete these rows."
        )
    _check_groups(subset_of, groups, source)


def _check_groups(subset_of: Mapping[str, str], groups: Mapping[str, str], source: str) -> None:
    subset_of_group: dict[str, str] = {}
    for name, subset in subset_of.items():
        first = subset_of_group.setdefault(groups[name], subset)
        if first != subset:
            raise UserError(
                f"{source} has group {groups[name]!r} in two subsets, {first} and {subset} ({name}). "
                "Move all samples of the group into one subset."
            )


def _warn_of_absent_classes(
    split: Split, records: Sequence[Record], class_names: Sequence[str], source: str
) -> None:
    labels = {record.id: record.labels for record in records}
    present = {
        subset: {label for name in names for label in labels[name]} for subset, names in split.subsets.items()
    }
    for label, class_name in enumerate(class_names):
        lacking = [subset for subset, found in present.items() if found and label not in found]
        if lacking:
            num_groups = len({split.groups[name] for name in split.groups if label in labels[name]})
            note = "%s has no image of class %s in %s: the class has %d groups."
            log.warning(note, source, class_name, ", ".join(lacking), num_groups)


def _num_groups(records: Iterable[Record]) -> int:
    return len({record.group for record in records})
