"""The test report of found objects: tables, label maps, figures, example predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from polymask.data.images import read_image, write_image
from polymask.families.instances.drawing import add_caption, instance_panel
from polymask.families.instances.figures import plot_object_confusion, plot_object_pr_curves
from polymask.families.instances.files import InstanceFiles
from polymask.families.instances.tables import coco_results, instance_rows, label_map, sure_objects
from polymask.metrics.bootstrap import ratio
from polymask.metrics.segmentation import lesion_scores
from polymask.reporting import figures
from polymask.reporting.metrics_file import Intervals, summary_lines, write_metrics
from polymask.reporting.rows import read_samples, write_samples
from polymask.structures import rle
from polymask.structures.objects import InstancePrediction, InstanceTruth
from polymask.utils.files import write_text

if TYPE_CHECKING:
    from polymask.data.object_record import InstanceRecord
    from polymask.families.instances.task import InstanceTask

_EXAMPLES = 8
_FIRST_SEEN = (
    "mask_ap",
    "mask_ap50",
    "mask_ap75",
    "box_ap",
    "f1_at_score",
    "count_error",
    "dice_lesion_image",
    "iou_lesion_image",
)


class InstanceReport:
    """Writes the objects of each image as they come, and everything else at the end.

    `instances.json` holds all objects, as COCO's average precision needs them, with the image and category
    ids of the annotation file where there is one (else the image's name, and the classes from 1). pycocotools
    takes the areas of masks for `small`, `medium` and `large` from the boxes when a result has both.
    All other files hold the objects of at least the task's score threshold, at the images' own sizes.

    Args:
        folder: Where to write; for `picture` alone, where an earlier report lies.
        task: The task; its collected rows are the source of all numbers.
        data: The data set, for groups, truth and the size of a pixel.
    """

    def __init__(self, folder: Path, *, task: InstanceTask, data: Any) -> None:
        self.folder, self.task, self.data = folder, task, data
        self.intervals: Intervals = {}
        self._files = InstanceFiles(folder, pixel_size=data.pixel_size)

    def add(self, predictions: Sequence[InstancePrediction]) -> None:
        """Write label map, panel, table rows and COCO results of each image of one batch."""
        names = self.task.class_names
        for prediction in predictions:
            record = self._records[prediction.id]
            sure = sure_objects(prediction, self.task.score_threshold)
            # In the words of the annotation file, if there is one, so that pycocotools can compare them.
            image_id = record.id if record.image_number is None else record.image_number
            results = coco_results(prediction, image_id, record.category_ids or range(1, len(names) + 1))
            self._files.add(instance_rows(sure, names), results)
            write_image(self.folder / "label_maps" / f"{record.id}.tif", label_map(sure))
            truth = read_truth(record, prediction.size)
            panel = instance_panel(record.read_image(), truth, sure, names)
            write_image(self._panel_path(record.id), panel)

    def finish(self, history: Sequence[dict[str, float]], best_epoch: int) -> None:
        """Write metrics with intervals, the table of images, figures and example predictions."""
        self._files.finish()
        rows, names, threshold = self.task.rows, self.task.class_names, self.task.score_threshold
        groups = self.data.groups(list(rows["ids"]))
        self.intervals = write_metrics(
            self.folder,
            lambda weights: self.task.sample_metrics(rows, weights),
            groups,
            losses=self.task.mean_losses(),
            details={
                "score_threshold": threshold,
                "pixel_size_um": self.data.pixel_size,
                "split_sha256": self.data.split.sha256,
            },
        )
        write_samples(self.folder, rows, groups)
        write_text(self.folder / "per_sample.csv", self._table.to_csv(index=False))
        plot_object_pr_curves(rows, names, threshold, self.folder / "pr_curves.png")
        plot_object_confusion(rows, names, threshold, self.folder / "confusion_matrix.png")
        if len(history):
            frame = pd.DataFrame(list(history))
            figures.plot_training_curves(frame, self.folder / "training_curves.png", best_epoch)
        self._write_examples(rows)

    def summary(self, metrics: dict[str, float]) -> list[str]:
        """Return one line per main metric, with its interval."""
        return summary_lines(_FIRST_SEEN, metrics, self.intervals)

    def picture(self, id_: str) -> np.ndarray:
        """Return the panel of one test image with its numbers below, from the files of the report.

        Args:
            id_: Its id.

        Returns:
            (H, W, 3) uint8 RGB: true and found objects side by side, caption.

        Raises:
            UserError: The folder holds no report of a test.
        """
        caption = _caption(self._table.loc[id_].to_dict(), self.task.class_names)
        return add_caption(read_image(self._panel_path(id_)), caption)

    @cached_property
    def _records(self) -> dict[str, InstanceRecord]:
        return {record.id: record for record in self.data.subset("test")}

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The table of images, from the file, so that an earlier report has it as well."""
        rows, groups = read_samples(self.folder)
        return sample_table(rows, groups, self.task.class_names).set_index("id", drop=False)

    def _panel_path(self, id_: str) -> Path:
        return self.folder / "overlays" / f"{id_}.jpg"

    def _write_examples(self, rows: dict[str, np.ndarray]) -> None:
        """Write panels of evenly spread images and of the worst, by the first score of the task."""
        ids = rows["ids"]
        scores = next(iter(self.task.sample_scores(rows).values()))
        worst = [index for index in np.argsort(scores, kind="stable") if not np.isnan(scores[index])]
        spread = np.unique(np.linspace(0, len(ids) - 1, _EXAMPLES).round().astype(int))
        for kind, chosen in {"sample": spread.tolist(), "worst": worst[:_EXAMPLES]}.items():
            for number, index in enumerate(chosen, start=1):
                id_ = str(ids[index])
                name = f"{kind}_{number}_{id_.replace('/', '_')}.png"
                write_image(self.folder / "predictions" / name, self.picture(id_))


def read_truth(record: InstanceRecord, size: tuple[int, int]) -> InstanceTruth:
    """Read the true objects of an image of (height, width) `size`."""
    target = record.read_instances(size).to_target()
    return InstanceTruth(
        size=size,
        boxes=target["boxes"],
        labels=target["labels"],
        masks=[rle.encode(mask) for mask in target["masks"]],
        crowd=target["crowd"],
    )


def sample_table(
    rows: dict[str, np.ndarray], groups: Sequence[str], class_names: Sequence[str]
) -> pd.DataFrame:
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
