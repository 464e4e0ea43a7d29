"""The test report of found objects: tables, label maps, figures, example predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polymask.data.images import read_image, write_image
from polymask.data.module import DataModule
from polymask.data.records import Record
from polymask.families import base
from polymask.families.instances.drawing import add_caption, instance_panel
from polymask.families.instances.figures import plot_object_confusion, plot_object_pr_curves
from polymask.families.instances.files import InstanceFiles
from polymask.families.instances.predictions import confident_objects, label_map
from polymask.families.instances.scorer import Scorer
from polymask.families.instances.tables import coco_results, instance_rows
from polymask.families.instances.truth import read_truth
from polymask.families.threshold_report import plot_calibration, write_thresholds
from polymask.metrics.bootstrap import ratio
from polymask.metrics.object_threshold import counted_objects
from polymask.metrics.rows import mean_losses
from polymask.metrics.segmentation import lesion_scores
from polymask.reporting.course import Course, plot_course
from polymask.reporting.metrics_file import write_metrics
from polymask.reporting.rows import read_samples, write_samples
from polymask.structures.objects import FoundObjects
from polymask.structures.samples import Rows
from polymask.utils.files import write_text

_EXAMPLES = 8


class Report(base.Report):
    """Writes the objects of each image as they come, and everything else at the end.

    `instances.json` holds all objects, as COCO's average precision needs them, with the image and category
    ids of the annotation file where there is one (else the image's name, and the classes from 1). pycocotools
    takes the areas of masks for `small`, `medium` and `large` from the boxes when a result has both.
    All other files hold the objects of at least the score threshold, at the images' own sizes.

    Args:
        folder: Where to write; for `picture` alone, where an earlier report lies.
        scorer: Computes the metrics; it knows the classes.
        data: The data set, for groups and truth.
        score_threshold: Least score of the objects that count.
        pixel_size: Side of a pixel in micrometres, None when unknown.
        validation: What score thresholds follow from, {} where nothing is known.
    """

    bulk_folders = ("label_maps", "overlays")

    def __init__(
        self,
        folder: Path,
        *,
        scorer: Scorer,
        data: DataModule,
        score_threshold: float,
        pixel_size: float | None,
        validation: Rows,
    ) -> None:
        self.folder, self.scorer, self.data, self.validation = folder, scorer, data, validation
        self.score_threshold, self.pixel_size = score_threshold, pixel_size
        self._files = InstanceFiles(folder, pixel_size=pixel_size)

    def add(self, predictions: Sequence[FoundObjects]) -> None:
        """Write label map, panel, table rows and COCO results of each image of one batch."""
        names = self.scorer.class_names
        for prediction in predictions:
            record = self._records[prediction.id]
            confident = confident_objects(prediction, self.score_threshold)
            results = coco_results(prediction, *_annotation_ids(record, len(names)))
            self._files.add(instance_rows(confident, names), results)
            write_image(self.folder / "label_maps" / f"{record.id}.tif", label_map(confident))
            truth = read_truth(record, prediction.size)
            panel = instance_panel(record.read_image(), truth, confident, names)
            write_image(self._panel_path(record.id), panel)

    def finish(self, rows: Rows, course: Course) -> list[str]:
        """Write metrics with intervals, the table of images, figures and example predictions."""
        self._files.finish()
        names, threshold = self.scorer.class_names, self.score_threshold
        groups = self.data.groups(list(rows["ids"]))
        measured = write_metrics(
            self.folder,
            lambda weights: self.scorer.metrics(rows, weights),
            groups,
            losses=mean_losses(rows),
            details={
                "score_threshold": threshold,
                "pixel_size_um": self.pixel_size,
                "split_sha256": self.data.split.sha256,
            },
        )
        write_samples(self.folder, rows, groups)
        write_text(self.folder / "per_sample.csv", self._table.to_csv(index=False))
        plot_object_pr_curves(rows, names, threshold, self.folder / "pr_curves.png")
        plot_object_confusion(rows, names, threshold, self.folder / "confusion_matrix.png")
        counted = counted_objects(rows)
        write_thresholds(self.folder, counted, groups, self.validation, threshold)
        plot_calibration(self.folder, counted, groups, "objects")
        plot_course(course, self.folder)
        self._write_examples(rows)
        return measured.lines(self.scorer.headline)

    def picture(self, id_: str) -> np.ndarray:
        """Return the panel of one test image with its numbers below, from the files of the report.

        Args:
            id_: Its id.

        Returns:
            (H, W, 3) uint8 RGB: true and found objects side by side, caption.

        Raises:
            UserError: The folder holds no report of a test.
        """
        caption = _caption(self._table.loc[id_].to_dict(), self.scorer.class_names)
        return add_caption(read_image(self._panel_path(id_)), caption)

    @cached_property
    def _records(self) -> dict[str, Record]:
        return {record.id: record for record in self.data.subset("test")}

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The table of images, from the file, so that an earlier report has it as well."""
        rows, groups = read_samples(self.folder)
        return sample_table(rows, groups, self.scorer.class_names).set_index("id", drop=False)

    def _panel_path(self, id_: str) -> Path:
        return self.folder / "overlays" / f"{id_}.jpg"

    def _write_examples(self, rows: Rows) -> None:
        """Write panels of evenly spread images and of the worst, by the first of their scores."""
        ids = rows["ids"]
        scores = next(iter(self.scorer.scores(rows).values()))
        worst = [index for index in np.argsort(scores, kind="stable") if not np.isnan(scores[index])]
        spread = np.unique(np.linspace(0, len(ids) - 1, _EXAMPLES).round().astype(int))
        for kind, chosen in {"sample": spread.tolist(), "worst": worst[:_EXAMPLES]}.items():
            for number, index in enumerate(chosen, start=1):
                id_ = str(ids[index])
                name = f"{kind}_{number}_{id_.replace('/', '_')}.png"
                write_image(self.folder / "predictions" / name, self.picture(id_))


def _annotation_ids(record: Record, num_classes: int) -> tuple[int | str, Sequence[int]]:
    """Return the ids of an image and of the classes in its annotation file, so that pycocotools can compare.

    Without such a file they are the image's name, and the classes from 1.
    """
    number = None if record.truth is None else record.truth.image_number
    categories = () if record.truth is None else record.truth.category_ids
    return record.id if number is None else number, categories or range(1, num_classes + 1)


def sample_table(rows: Rows, groups: Sequence[str], class_names: Sequence[str]) -> pd.DataFrame:
    """Return one line per test image: objects of each class, and scores of objects and of their union.

    Args:
        rows: Rows of `polymask.metrics.instance_matching.match_image`, and `ids`.
        groups: (N,) group of each image.
        class_names: Names of the K classes.
    """
    table = pd.DataFrame({"id": rows["ids"], "group": groups})
    true, found = rows["num_true"][:, :, 0], rows["num_found"]
    for index, name in enumerate(class_names):
        table[f"true_{name}"], table[f"found_{name}"] = true[:, index], found[:, index]
    hits = rows["num_hits"].sum(axis=1)
    table["precision_at_score"] = ratio(hits, found.sum(axis=1))
    table["recall_at_score"] = ratio(hits, true.sum(axis=1))
    table["top_mask_iou"] = rows["top_mask_iou"].astype(np.float64)
    union = rows["union_confusion"]
    scores = lesion_scores(union[:, 1], union)
    table["dice_lesion"], table["iou_lesion"] = scores["dice"], scores["iou"]
    return table


def _caption(row: dict[Any, Any], class_names: Sequence[str]) -> str:
    true, found = (sum(row[f"{kind}_{name}"] for name in class_names) for kind in ("true", "found"))
    parts = [row["id"], f"{found:g} found, {true:g} true"]
    shown = {"precision": "precision_at_score", "recall": "recall_at_score", "Dice": "dice_lesion"}
    for name, column in shown.items():
        if not np.isnan(row[column]):
            parts.append(f"{name} {row[column]:.3f}")
    return " | ".join(parts)
