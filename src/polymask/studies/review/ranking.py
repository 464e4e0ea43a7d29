"""The samples of a review in the order of suspicion, as the rows of its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from polymask.data.corrections import KEEP
from polymask.metrics.label_quality import (
    NONE,
    confident_classes,
    normalized_margin,
    self_confidence,
)
from polymask.studies.review.gathering import Evidence

Row = dict[str, object]
RANKINGS = ("self_confidence", "normalized_margin", "confident_joint")
"""By what labels are ranked; the last puts the confident errors first, and takes the margin within."""
LABEL_COLUMNS = (
    *("rank", "id", "score", "given", "suggested", "probability"),
    *("self_confidence", "normalized_margin", "confident_error", "group", "run"),
)


def rank_labels(evidence: Evidence, ranking: str) -> list[Row]:
    """Return one row per sample whose class is known, the most suspicious first.

    `score` is the value that the rows are ranked by, low is suspicious; `suggested` the confident class of a
    confident error, else the most probable class, and `probability` its probability.

    Args:
        evidence: The evidence; none has a class where there are fewer than two.
        ranking: One of `RANKINGS`.
    """
    known = np.flatnonzero(evidence.labels >= 0)
    if len(evidence.class_names) < 2 or len(known) == 0:
        return []
    labels, probabilities = evidence.labels[known], evidence.probabilities[known].astype(np.float64)
    confident = confident_classes(labels, probabilities)
    error = (confident != NONE) & (confident != labels)
    suggested = np.where(error, confident, probabilities.argmax(axis=1))
    values = {
        "self_confidence": self_confidence(labels, probabilities),
        "normalized_margin": normalized_margin(labels, probabilities),
    }
    score = values.get(ranking, values["normalized_margin"])
    first = error if ranking == "confident_joint" else np.zeros_like(error)
    rows: list[Row] = []
    for rank, index in enumerate(np.lexsort((score, ~first)).tolist(), start=1):
        rows.append(
            {
                "rank": rank,
                "id": evidence.ids[known[index]],
                "score": _rounded(score[index]),
                "given": evidence.class_names[labels[index]],
                "suggested": evidence.class_names[suggested[index]],
                "probability": _rounded(probabilities[index, suggested[index]]),
                **{name: _rounded(value[index]) for name, value in values.items()},
                "confident_error": int(error[index]),
                "group": evidence.groups[known[index]],
                "run": evidence.runs[known[index]],
            }
        )
    return rows


def mask_columns(evidence: Evidence) -> tuple[str, ...]:
    """Return the columns of the rows of `rank_masks`."""
    return ("rank", "id", "score", *evidence.masks, "group", "run")


def rank_masks(evidence: Evidence) -> list[Row]:
    """Return one row per sample with a mask, the most suspicious first.

    `score` is the first measure, high is suspicious; of equal ones the next measures decide.
    """
    if not evidence.masks:
        return []
    measures = list(evidence.masks.values())
    order = np.lexsort([-values for values in reversed(measures)])
    known = [index for index in order.tolist() if not math.isnan(measures[0][index])]
    return [
        {
            "rank": rank,
            "id": evidence.ids[index],
            "score": _rounded(measures[0][index]),
            **{name: _rounded(values[index]) for name, values in evidence.masks.items()},
            "group": evidence.groups[index],
            "run": evidence.runs[index],
        }
        for rank, index in enumerate(known, start=1)
    ]


def label_words(row: Row) -> str:
    """Return what speaks against a class in a few words."""
    suggested = f"suggested {row['suggested']} ({row['probability']:.2f})"
    return f"label {row['rank']}: given {row['given']}, {suggested}"


def mask_words(row: Row) -> str:
    """Return what speaks against a mask in a few words."""
    measures = [f"{name} {value:.2f}" for name, value in row.items() if isinstance(value, float)]
    return f"mask {row['rank']}: {', '.join(measures[1:])}"  # the first is the score, which is one of them


def corrections_to_edit(labels: Sequence[Row], masks: Sequence[Row], share: float) -> list[Row]:
    """Return a row for each of the first `share` of both lists, which all keep what is there.

    Classes that the prediction agrees with, and masks that nothing contradicts, are left out.
    """
    found: dict[object, Row] = {}
    for row in first_of(labels, share):
        if row["given"] != row["suggested"]:
            found[row["id"]] = {"value": row["suggested"], "note": label_words(row)}
    for row in first_of(masks, share):
        if row["score"]:
            entry = found.setdefault(row["id"], {"value": "", "note": ""})
            entry["note"] = "; ".join(filter(None, (str(entry["note"]), mask_words(row))))
    return [{"id": id_, "action": KEEP, **entry} for id_, entry in found.items()]


def first_of(rows: Sequence[Row], share: float) -> Sequence[Row]:
    """Return the first `share` of some rows, rounded up."""
    return rows[: math.ceil(share * len(rows))]


def _rounded(value: float) -> float:
    return round(float(value), 6)
