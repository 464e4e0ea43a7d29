"""The two runs of a comparison, and whether they can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from polymask.data.attributes import Attributes
from polymask.data.module import DataModule
from polymask.errors import UserError
from polymask.families.base import Family, Report
from polymask.metrics.rows import ORIGINAL, RAW
from polymask.metrics.subgroups import ROWS_PREFIX
from polymask.reporting.rows import common_samples
from polymask.structures.samples import Rows
from polymask.studies.tested_run import RunOnDisk, with_test_samples
from polymask.utils.files import REPORT_NAME


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs, as its test left it.

    Attributes:
        name: Name of the run.
        family: Its family, which scores its rows.
        rows: One row per test sample, see `polymask.reporting.rows`.
        groups: (N,) group of each sample.
        split_sha256: Hash of the split that it was tested on.
        grid: (height, width) on which masks were scored, None where that is their own size.
        report: Draws its test samples.
        fit: How images came to the size of that grid, `stretch` or `letterbox`.
        smallest_subgroup: Of subgroups with fewer groups only the counts are shown.
    """

    name: str
    family: Family
    rows: Rows
    groups: Sequence[str]
    split_sha256: str
    grid: tuple[int, ...] | None
    report: Report
    fit: str = "stretch"
    smallest_subgroup: int = Attributes.smallest_subgroup

    @property
    def place(self) -> str:
        """Return where its masks were scored, in words."""
        size = " x ".join(map(str, self.grid)) if self.grid is not None else "their own size"
        return size if self.fit == "stretch" else f"{size} {self.fit}"

    @property
    def class_names(self) -> list[str]:
        """Return its classes, in their order."""
        return self.family.class_names


def make_side(run: RunOnDisk, data: DataModule) -> Side:
    """Return a run as a side of a comparison.

    Args:
        run: The tested run.
        data: The data set that it was tested on, for pictures; with any split.

    Raises:
        UserError: It was tested on other data.
    """
    content = json.loads((run.folder / REPORT_NAME).read_text())
    family = run.run.family
    return Side(
        name=run.name,
        family=family,
        rows=run.rows,
        groups=run.groups,
        split_sha256=content["split_sha256"],
        grid=tuple(content["grid"]) if "grid" in content else None,
        report=family.report(run.folder, with_test_samples(data, run.rows["ids"].tolist(), run.name)),
        fit=content.get("fit", "stretch"),  # reports of old do not say
        smallest_subgroup=data.attributes.smallest_subgroup,
    )


def align(side_a: Side, side_b: Side) -> tuple[Side, Side, list[str]]:
    """Return both runs on the samples that they have in common, and what a reader must know.

    Args:
        side_a: Run A.
        side_b: Run B.

    Returns:
        Both sides with the same samples in the same order and the groups of A; notes, one sentence or two
        each.

    Raises:
        UserError: The runs have different classes, metrics or labels, or no test sample in common.
    """
    _check_tasks(side_a, side_b)
    (side_a, side_b), notes = _same_columns([side_a, side_b])
    rows_a, rows_b, of_a = common_samples(side_a.rows, side_b.rows)
    notes += _split_notes(side_a, side_b, num_common=len(of_a))
    groups = [side_a.groups[index] for index in of_a]
    group_in_b = dict(zip(side_b.rows["ids"].tolist(), side_b.groups, strict=True))
    if groups != [group_in_b[name] for name in rows_a["ids"].tolist()]:
        notes.append(f"The groups of the images differ; those of {side_a.name} are used.")
    if side_a.place != side_b.place:
        grids = " and ".join(f"{side.place} ({side.name})" for side in (side_a, side_b))
        notes.append(
            f"Masks were scored on different grids, {grids}: part of a difference may come from that."
        )
    side_a, side_b = replace(side_a, rows=rows_a, groups=groups), replace(side_b, rows=rows_b, groups=groups)
    _check_rows(side_a, side_b)
    return side_a, side_b, notes


def align_all(sides: Sequence[Side]) -> tuple[list[Side], list[list[str]]]:
    """Return several runs on the samples that all have in common, and what a reader must know.

    Args:
        sides: At least two; the first is run A, with which each of the others is compared.

    Returns:
        All sides with the same samples in the same order and the groups of A; the notes of each but A.

    Raises:
        UserError: A run is named twice, cannot be compared with A (see `align`), or no test sample is common
            to all.
    """
    names = [side.name for side in sides]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named more than once among {', '.join(names)}: name each run once.")
    for other in sides[1:]:
        _check_tasks(sides[0], other)
    sides, partly = _same_columns(sides)
    pairs = [align(sides[0], other) for other in sides[1:]]
    common = reduce(np.intersect1d, [side_a.rows["ids"] for side_a, _, _ in pairs])
    if len(common) == 0:
        raise UserError(
            f"{', '.join(names)} have no test image that all have in common: test them on one split with "
            "polymask test data.split_file=…"
        )
    fewer = (
        f"Of the images that a pair has in common, only the {len(common)} that all {len(sides)} runs have "
    )
    more = [fewer + "are compared."] if any(len(side.groups) > len(common) for side, _, _ in pairs) else []
    aligned = [pairs[0][0], *(side_b for _, side_b, _ in pairs)]
    notes = [[*partly, *notes, *more] for _, _, notes in pairs]
    return [_only(side, common) for side in aligned], notes


def _same_columns(sides: Sequence[Side]) -> tuple[list[Side], list[str]]:
    """Return runs without what not all of them measured, and a note on it.

    Older tests have less, and others ask for other distances or operating points. Runs that were not measured
    against the same kinds of truth keep what tells them apart. Subgroups are of the samples, so one run that
    knows them is enough.
    """
    own: list[set[str]] = [set(side.rows) for side in sides]
    partly = own[0].union(*own) - own[0].intersection(*own)
    partly = {name for name in partly if not name.startswith(ROWS_PREFIX)}
    if any(_kinds_of_truth(side) != _kinds_of_truth(sides[0]) for side in sides):
        partly = {name for name in partly if name.endswith(ORIGINAL)}
    if not partly:
        return list(sides), []
    notes = _calibration_notes(sides)
    shown = sorted(name for name in partly if not name.endswith(RAW))
    if shown:
        notes.append(
            f"Left out is what was not measured in all tests: {', '.join(shown)}. Where it can be measured, "
            "polymask test with the same settings for all does it."
        )
    kept = [{name: values for name, values in side.rows.items() if name not in partly} for side in sides]
    return [replace(side, rows=rows) for side, rows in zip(sides, kept, strict=True)], notes


def _calibration_notes(sides: Sequence[Side]) -> list[str]:
    """Say so when the probabilities of some runs, but not of all, were calibrated."""
    calibrated = [side.name for side in sides if any(name.endswith(RAW) for name in side.rows)]
    if len(calibrated) in (0, len(sides)):
        return []
    others = [side.name for side in sides if side.name not in calibrated]
    return [
        f"The probabilities of {', '.join(calibrated)} were calibrated, those of {', '.join(others)} were "
        "not, which alone makes calibration errors and Brier scores differ: test all with one calibration=."
    ]


def _kinds_of_truth(side: Side) -> set[str]:
    """Return against what a run was measured, apart from the size at which that was done."""
    rows = {name: values for name, values in side.rows.items() if not name.endswith(ORIGINAL)}
    return set(side.family.scorer.truth(rows, same_grid=True))


def _only(side: Side, ids: np.ndarray) -> Side:
    """Return a run on some of its samples."""
    kept = np.isin(side.rows["ids"], ids)
    groups = [group for group, is_kept in zip(side.groups, kept, strict=True) if is_kept]
    return replace(side, rows={name: values[kept] for name, values in side.rows.items()}, groups=groups)


def _split_notes(side_a: Side, side_b: Side, *, num_common: int) -> list[str]:
    """Say in which way splits differ, if they do."""
    num_a, num_b = len(side_a.rows["ids"]), len(side_b.rows["ids"])
    same_split = side_a.split_sha256 == side_b.split_sha256
    hashes = f"{side_a.name} {side_a.split_sha256[:12]}, {side_b.name} {side_b.split_sha256[:12]}"
    if num_common == 0:
        raise UserError(
            f"{side_a.name} and {side_b.name} have no test image in common ({num_a} and {num_b} images): "
            "test both on one split with polymask test data.split_file=…"
        )
    if num_common == num_a == num_b:
        if same_split:
            return []
        return [
            f"The splits differ ({hashes}): the {num_a} test images are the same, but those for training and "
            "validation are not (or groups or labels have changed), so the runs learned from different data."
        ]
    what = "The test images differ although the split is the same" if same_split else "The splits differ"
    return [
        f"{what} ({hashes}): {side_a.name} was tested on {num_a} images, {side_b.name} on {num_b}. "
        f"Only the {num_common} images in both are compared, so the values are not those of the test reports."
    ]


def _check_tasks(side_a: Side, side_b: Side) -> None:
    if type(side_a.family) is not type(side_b.family):
        found = [" and ".join(sorted(side.family.predicts)) for side in (side_a, side_b)]
        raise UserError(
            f"{side_a.name} predicts {found[0]}, {side_b.name} {found[1]}. Only runs of the same task can be "
            "compared; polymask summarize puts others side by side."
        )
    if list(side_a.class_names) != list(side_b.class_names):
        raise UserError(
            f"{side_a.name} has the classes {', '.join(side_a.class_names) or 'none'}, {side_b.name} "
            f"{', '.join(side_b.class_names) or 'none'}. Only runs with the same classes in the same order "
            "can be compared."
        )


def _check_rows(side_a: Side, side_b: Side) -> None:
    """Make sure that the same metrics can be computed of both runs, against the same truth."""
    rows_a, rows_b = side_a.rows, side_b.rows
    for name in sorted(rows_a.keys() & rows_b.keys()):
        if rows_a[name].shape != rows_b[name].shape:
            raise UserError(
                f"{side_a.name} and {side_b.name} have different settings of task or test, by which their "
                f"{name!r} differ in size: {rows_a[name].shape[1:]} and {rows_b[name].shape[1:]} per image. "
                "Only runs of the same task can be compared."
            )
    _check_truth(side_a, side_b)
    names_a, names_b = (
        side.family.scorer.metrics(side.rows, per_class=True).keys() for side in (side_a, side_b)
    )
    if names_a != names_b:
        raise UserError(
            f"{side_a.name} and {side_b.name} are of different tasks: only one of them has "
            f"{', '.join(sorted(names_a ^ names_b))}. Only runs of the same task can be compared."
        )


def _check_truth(side_a: Side, side_b: Side) -> None:
    """Make sure that the true classes, and on equal grids the true masks, are the same for both runs."""
    same_grid = side_a.place == side_b.place
    truth_a, truth_b = (side.family.scorer.truth(side.rows, same_grid=same_grid) for side in (side_a, side_b))
    for what in truth_a.keys() & truth_b.keys():
        differ = (truth_a[what] != truth_b[what]).reshape(len(truth_a[what]), -1).any(axis=1)
        if differ.any():
            raise UserError(
                f"the true {what} of {differ.sum()} images are not the same in the tests of {side_a.name} "
                f"and {side_b.name}: run polymask test on the same data for both."
            )
