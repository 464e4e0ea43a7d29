"""The test report of images with a mask and a class: tables, figures, example predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from polymask.data.headers import read_header
from polymask.data.images import resize_mask, write_image
from polymask.data.module import DataModule
from polymask.data.records import Record
from polymask.families import base
from polymask.families.multitask.application import mask_file_values
from polymask.families.multitask.dataset import read_true_mask
from polymask.families.multitask.decision_report import DecisionReport
from polymask.families.multitask.decisions import Decisions
from polymask.families.multitask.explanation_report import ExplanationReport, explanation_columns
from polymask.families.multitask.explanations import FOLDER
from polymask.families.multitask.original_size import OriginalScores
from polymask.families.multitask.predictions import ImagePrediction, image_result
from polymask.families.multitask.scorer import Scorer
from polymask.metrics.bootstrap import ratio
from polymask.metrics.boundaries import count_defined, score_columns
from polymask.metrics.classification import confusion_matrix
from polymask.metrics.explanations import CHANCE, INSIDE, count_explained
from polymask.metrics.rows import ORIGINAL, mean_losses
from polymask.metrics.segmentation import lesion_scores
from polymask.reporting import figures
from polymask.reporting.canvas import prediction_panel
from polymask.reporting.course import Course, plot_course
from polymask.reporting.metrics_file import write_metrics
from polymask.reporting.rows import read_samples, write_samples
from polymask.structures.samples import Rows
from polymask.utils.files import write_text

_EXAMPLES = 8
_AT_ORIGINAL_SIZE = ("dice_lesion_image", "iou_lesion_image")
"""What the summary of a test says of masks at the images' own sizes."""


class Report(base.Report):
    """Writes predicted masks as they come, and everything else at the end.

    Masks are those of an inference: of the image's own size. Metrics are on the grid of the network's input
    (`data.image_size`), and those that end in `_original` of these masks.

    Args:
        folder: Where to write; for `picture` alone, where an earlier report lies.
        scorer: Computes the metrics; it knows the classes.
        data: The data set, for groups, truth and file names.
        choices: What validation samples decided.
        fit: How images come to the network's size, see `fit_window`.
        surface_tolerances: Distances of outlines that count as none, see `OriginalScores`.
        explain: Whether predictions come with explanations.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scorer: Scorer,
        data: DataModule,
        choices: Decisions,
        fit: str,
        surface_tolerances: Sequence[float] = (),
        explain: bool = False,
    ) -> None:
        self.folder, self.scorer, self.data = folder, scorer, data
        self.choices, self.fit, self.explain = choices, fit, explain
        self._explanations = ExplanationReport(folder)
        self._original = OriginalScores(
            num_classes=len(scorer.class_names) + 1 if scorer.multiclass else 2,
            pixel_size=data.samples.pixel_size,
            tolerances=surface_tolerances,
        )

    @property
    def bulk_folders(self) -> Sequence[str]:
        """Return the folders with a file per sample."""
        return ("masks", FOLDER) if self.explain else ("masks",)

    def add(self, predictions: Sequence[ImagePrediction]) -> None:
        """Write the masks of one batch to `masks/{id}.png`, as inference does, and score them.

        Explanations, where there are some, likewise.
        """
        names, multiclass = self.scorer.class_names, self.scorer.multiclass
        for prediction in predictions:
            if prediction.mask_probabilities is None and prediction.explanation is None:
                continue
            record = self._records[prediction.id]
            true = read_true_mask(record, classes=multiclass)
            size = _own_size(record) if true is None else true.shape
            result = image_result(prediction, size, names, multiclass=multiclass)
            if result.mask is not None:
                write_image(self._mask_path(prediction.id), mask_file_values(result))
                self._original.add(prediction.id, result.mask, true)
            if result.explanation is not None:
                self._explanations.add(prediction.id, result.explanation, true)

    def complete(self, rows: Rows) -> Rows:
        """Return the rows with the scores of masks and explanations at the images' own sizes."""
        return self._explanations.complete(self._original.complete(rows))

    def finish(self, rows: Rows, course: Course) -> list[str]:
        """Write metrics with intervals, the table of samples, figures and example predictions."""
        scorer = self.scorer
        groups, counts = self.data.groups(list(rows["ids"])), scorer.mask_counts(rows)
        measured = write_metrics(
            self.folder,
            lambda weights: scorer.metrics(rows, weights, per_class=True),
            groups,
            losses=mean_losses(rows),
            details={
                "calibration": self.choices.calibration,
                "grid": list(self.data.image_size or ()),
                "fit": self.fit,
                "split_sha256": self.data.split.sha256,
                **counts,
                **count_defined(rows),
                **count_explained(rows),
            },
        )
        write_samples(self.folder, rows, groups)
        write_text(self.folder / "per_sample.csv", self._table.to_csv(index=False))
        if "class_probabilities" in rows and (rows["label"] >= 0).any():
            self._write_classification(rows)
        DecisionReport(self.folder, scorer.class_names, self.choices).write(rows, groups, measured)
        plot_course(course, self.folder)
        self._write_examples()
        self._explanations.write_sheet(list(self._rows.values()), self._records.__getitem__)
        lines = measured.lines([*self.scorer.headline, *(f"{name}{ORIGINAL}" for name in _AT_ORIGINAL_SIZE)])
        lines += measured.lines([INSIDE, CHANCE])
        if counts:
            lines.append(
                f"test/num_empty_masks {counts['num_empty_masks']} of {counts['num_masks']}  (nothing found "
                "where nothing is counts as 1)"
            )
        return lines

    def picture(self, id_: str) -> np.ndarray:
        """Return the panel of one test sample, from the files of the folder and the data set.

        Args:
            id_: Its id.

        Returns:
            (H, W, 3) uint8 RGB: image, predicted mask, outlines of prediction and truth, explanation (where
            there is one), caption.

        Raises:
            UserError: The folder holds no report of a test, or an image of the data set cannot be read.
        """
        record, caption = self._records[id_], _caption(self._rows[id_])
        image = record.read_image()
        shape, mask_path = image.shape[:2], self._mask_path(id_)
        heat = self._explanations.heat(id_)
        true = (record.read_mask() == 1).astype(np.uint8) if record.has_mask else None
        if not mask_path.is_file():  # the task has no masks, so there is nothing to compare
            true = true if heat is not None else None
            return prediction_panel(image, true, np.zeros(shape, np.uint8), caption, heat)
        # Masks of reports of old are on the grid, of images that were stretched to it.
        predicted = resize_mask(read_binary_or_classes(mask_path), shape)
        return prediction_panel(image, true, predicted, caption, heat)

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The table of samples, from the file, so that an earlier report has it as well."""
        rows, groups = read_samples(self.folder)
        return sample_table(rows, groups, self.scorer.class_names)

    @cached_property
    def _rows(self) -> dict[str, dict[Any, Any]]:
        return {row["id"]: row for row in self._table.to_dict("records")}

    @cached_property
    def _records(self) -> dict[str, Record]:
        return {record.id: record for record in self.data.subset("test")}

    def _mask_path(self, id_: str) -> Path:
        return self.folder / "masks" / f"{id_}.png"

    def _write_classification(self, rows: Rows) -> None:
        from sklearn.metrics import classification_report

        names = self.scorer.class_names
        known = rows["label"] >= 0
        labels, probabilities = rows["label"][known], rows["class_probabilities"][known]
        predicted = probabilities.argmax(axis=1)
        text = classification_report(
            labels, predicted, labels=range(len(names)), target_names=names, digits=4, zero_division=0
        )
        write_text(self.folder / "classification_report.txt", text)
        counts = confusion_matrix(labels, predicted, len(names))
        figures.plot_confusion_matrix(counts, names, self.folder / "confusion_matrix.png")
        figures.plot_roc_curves(labels, probabilities, names, self.folder / "roc_curves.png")
        figures.plot_pr_curves(labels, probabilities, names, self.folder / "pr_curves.png")

    def _write_examples(self) -> None:
        """Write panels of evenly spread samples, of the worst masks and of the most confident mistakes."""
        table = self._table
        spread = np.unique(np.linspace(0, len(table) - 1, _EXAMPLES).round().astype(int))
        chosen = {"sample": table.iloc[spread]}
        if "dice_lesion" in table:
            chosen["worst_mask"] = table.dropna(subset="dice_lesion").nsmallest(_EXAMPLES, "dice_lesion")
        if "correct" in table:
            wrong = table[(table["label"] != "") & (table["correct"] == 0)]
            chosen["worst_class"] = wrong.nlargest(_EXAMPLES, "confidence")
        for kind, some in chosen.items():
            for number, id_ in enumerate(some["id"], start=1):
                path = self.folder / "predictions" / f"{kind}_{number}_{id_}.png"
                write_image(path, self.picture(id_))


def read_binary_or_classes(path: Path) -> np.ndarray:
    """Read a mask that `mask_file_values` gave, as (H, W) uint8 with 0 = background."""
    mask = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    return np.where(mask == 255, np.uint8(1), mask)


def sample_table(rows: Rows, groups: Sequence[str], class_names: Sequence[str]) -> pd.DataFrame:
    """Return one line per test sample: classes, probabilities, Dice, IoU and pixel counts."""
    table = pd.DataFrame({"id": rows["ids"], "group": groups})
    if "class_probabilities" in rows:
        probabilities, labels = rows["class_probabilities"], rows["label"]
        predicted = probabilities.argmax(axis=1)
        names = np.array([*class_names, ""])  # label -1 (unknown) picks the last, empty name
        table["label"], table["predicted"] = names[labels], names[predicted]
        table["correct"] = np.where(labels >= 0, (labels == predicted).astype(int), -1)
        table["confidence"] = probabilities.max(axis=1)
        for index, name in enumerate(class_names):
            table[f"probability_{name}"] = probabilities[:, index]
    if "lesion_confusion" in rows:
        true_positive, false_positive, false_negative = rows["lesion_confusion"].T
        has_mask = rows["confusion"].sum(axis=(1, 2)) > 0
        wrong = false_positive + false_negative
        empty = has_mask & (true_positive + wrong == 0)
        table["dice_lesion"] = np.where(empty, 1.0, ratio(2 * true_positive, 2 * true_positive + wrong))
        table["iou_lesion"] = np.where(empty, 1.0, ratio(true_positive, true_positive + wrong))
        table["true_mask_empty"] = np.where(has_mask, (true_positive + false_negative == 0).astype(int), -1)
        table["true_positive_pixels"] = true_positive
        table["false_positive_pixels"] = false_positive
        table["false_negative_pixels"] = false_negative
    return table.assign(**_original_columns(rows), **explanation_columns(rows))


def _original_columns(rows: Rows) -> dict[str, np.ndarray]:
    """Return what the table says of each mask at its image's own size; nothing of tests that did not look."""
    if f"confusion{ORIGINAL}" not in rows:
        return {}
    overlaps = lesion_scores(rows[f"lesion_confusion{ORIGINAL}"], rows[f"confusion{ORIGINAL}"])
    columns = {f"{name}_lesion{ORIGINAL}": values for name, values in overlaps.items()}
    return columns | {name.replace("_image", ""): rows[name] for name in score_columns(rows)}


def _own_size(record: Record) -> tuple[int, int]:
    """Return (height, width) of an image of which nothing else is known."""
    header = read_header(record.image_path)
    if header is not None:
        return header.height, header.width
    height, width = record.read_image().shape[:2]
    return height, width


def _caption(row: dict[Any, Any]) -> str:
    parts = [str(row["id"])]
    if "predicted" in row:
        parts.append(f"true {row['label'] or '?'}, predicted {row['predicted']} ({row['confidence']:.0%})")
    dice = row.get(f"dice_lesion{ORIGINAL}", row.get("dice_lesion", math.nan))
    if not math.isnan(dice):
        parts.append(f"Dice {dice:.3f}")
    return " | ".join(parts)
