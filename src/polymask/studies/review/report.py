"""What a review writes: tables in the order of suspicion, pictures of their first rows, a file to edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from polymask.data.corrections import ACTIONS, COLUMNS
from polymask.data.images import write_image
from polymask.errors import UserError
from polymask.families.base import Report
from polymask.metrics.label_quality import confident_joint, estimated_joint
from polymask.reporting.canvas import stack_panels, text_bar
from polymask.studies.review.gathering import Evidence
from polymask.studies.review.ranking import (
    LABEL_COLUMNS,
    Row,
    corrections_to_edit,
    label_words,
    mask_columns,
    mask_words,
    rank_labels,
    rank_masks,
)
from polymask.utils.files import REPORT_NAME, write_text
from polymask.utils.tables import csv_text
from polymask.utils.text import align_columns

CORRECTIONS_NAME = "corrections.csv"
_HASH = "corrections_sha256"
_SHOWN = 10  # rows of each list in the text


def check_unedited(folder: Path) -> None:
    """Refuse to replace a review whose file of corrections a person has edited.

    Raises:
        UserError: It was edited; the work in it would be lost.
    """
    file, report = folder / CORRECTIONS_NAME, folder / REPORT_NAME
    if not (file.is_file() and report.is_file()):
        return
    written = json.loads(report.read_text(encoding="utf-8")).get(_HASH)
    if hashlib.sha256(file.read_bytes()).hexdigest() != written:
        raise UserError(
            f"{file} was edited, and a new review would replace it; move it elsewhere, or choose another "
            "run_name."
        )


def write_review(
    folder: Path,
    evidence: Evidence,
    reports: Mapping[str, Report],
    *,
    ranking: str,
    share: float,
    num_pictures: int,
) -> dict[str, float]:
    """Write `labels.csv`, `masks.csv`, `corrections.csv`, `review.txt`, `metrics.json` and pictures.

    Args:
        folder: An existing, empty folder.
        evidence: What `gather_evidence` returned.
        reports: The test report of each run, which draws its samples.
        ranking: What labels are ranked by, one of `ranking.RANKINGS`.
        share: Of the samples, the first of each list, that `corrections.csv` names.
        num_pictures: Of the first of each list.

    Returns:
        The numbers for a tracker.
    """
    labels, masks = rank_labels(evidence, ranking), rank_masks(evidence)
    if labels:
        write_text(folder / "labels.csv", csv_text(LABEL_COLUMNS, labels))
    if masks:
        write_text(folder / "masks.csv", csv_text(mask_columns(evidence), masks))
    edit = csv_text(COLUMNS, corrections_to_edit(labels, masks, share))
    write_text(folder / CORRECTIONS_NAME, edit)
    for name, rows, words in (("labels", labels, label_words), ("masks", masks, mask_words)):
        _draw(folder / name, rows[:num_pictures], reports, words)
    numbers = _numbers(evidence, labels, masks)
    write_text(folder / "review.txt", _text(evidence, labels, masks, numbers, ranking))
    content = {
        "ranking": ranking,
        _HASH: hashlib.sha256(edit.encode()).hexdigest(),
        "notes": list(evidence.notes),
        "metrics": numbers,
    }
    write_text(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    return numbers


def _draw(
    folder: Path, rows: Sequence[Row], reports: Mapping[str, Report], words: Callable[[Row], str]
) -> None:
    for row in rows:
        id_ = str(row["id"])
        picture = reports[str(row["run"])].picture(id_)
        picture = stack_panels([picture, text_bar(words(row), picture.shape[1])])
        write_image(folder / f"{row['rank']:04d}_{id_.replace('/', '_')}.png", picture)


def _numbers(evidence: Evidence, labels: Sequence[Row], masks: Sequence[Row]) -> dict[str, float]:
    numbers = {"num_samples": float(len(evidence.ids))}
    if labels:
        joint = estimated_joint(*_known(evidence))
        numbers["num_labels"] = float(len(labels))
        numbers["num_confident_label_errors"] = float(sum(bool(row["confident_error"]) for row in labels))
        numbers["estimated_label_errors"] = float((1 - np.trace(joint)) * len(labels))
    if masks:
        numbers["num_masks"] = float(len(masks))
    return numbers


def _known(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    known = evidence.labels >= 0
    return evidence.labels[known], evidence.probabilities[known].astype(np.float64)


def _text(
    evidence: Evidence,
    labels: Sequence[Row],
    masks: Sequence[Row],
    numbers: Mapping[str, float],
    ranking: str,
) -> str:
    runs = ", ".join(dict.fromkeys(sorted(evidence.runs.tolist())))
    head = [f"{len(evidence.ids):,} samples, each by a run that never saw it: {runs}"]
    sections = [[*head, *(f"note: {note}" for note in evidence.notes)]]
    if labels:
        sections.append(_labels_section(evidence, labels, numbers, ranking))
    if masks:
        columns = ("rank", "id", *evidence.masks)
        title = f"Masks, most suspicious first (of {len(masks):,}: masks.csv)"
        sections.append([title, *_table(masks, columns, columns)])
    allowed = ", ".join(ACTIONS)
    sections.append(
        [
            f"Look at the pictures, write one of {allowed} into the column action of {CORRECTIONS_NAME}",
            "(relabel takes the class in the column value), and train again with data.corrections=<file>.",
        ]
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _labels_section(
    evidence: Evidence, labels: Sequence[Row], numbers: Mapping[str, float], ranking: str
) -> list[str]:
    names = evidence.class_names
    counts = confident_joint(*_known(evidence))
    joint = [["given", *names], *([name, *map(str, row)] for name, row in zip(names, counts, strict=True))]
    return [
        f"Labels by {ranking}, most suspicious first (of {len(labels):,}: labels.csv)",
        *_table(labels, ("rank", "id", "given", "suggested"), ("rank", "probability", "normalized_margin")),
        "",
        f"Confident errors: {numbers['num_confident_label_errors']:.0f}; by the estimated joint "
        f"{numbers['estimated_label_errors']:.1f} labels are wrong.",
        "Confident joint: samples by given class (rows) and by the class that they have with confidence",
        *align_columns(joint, left=1, indent="  "),
    ]


def _table(rows: Sequence[Row], texts: Sequence[str], numbers: Sequence[str]) -> list[str]:
    columns = list(dict.fromkeys([*texts, *numbers]))
    cells = [[_cell(row[name]) for name in columns] for row in rows[:_SHOWN]]
    return align_columns([columns, *cells], left=len(texts), indent="  ")


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
