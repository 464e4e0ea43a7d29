"""Single objects: the options of the task, and what belongs to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from polymask.errors import whole_number
from polymask.families import base
from polymask.families.instances.scorer import Scorer
from polymask.families.instances.tables import check_pixel_size
from polymask.families.thresholds import DEFAULT, check_threshold, chosen_threshold
from polymask.metrics.object_threshold import counted_objects
from polymask.structures.objects import FoundObjects
from polymask.structures.samples import Rows

if TYPE_CHECKING:
    from polymask.data.module import DataModule
    from polymask.data.records import Record
    from polymask.families.instances.loss import Loss
    from polymask.families.instances.task import Task
    from polymask.models.mask_rcnn.segmenter import MaskRCNNSegmenter

log = logging.getLogger(__name__)


class Family(base.Family):
    """Every object of an image with a class, a box and a mask.

    Args:
        class_names: Names of the K classes, without the background.
        score_threshold: Least score of the objects that count in precision, recall, counts, masks of the
            union, overlays and label maps; average precision looks at all of them. Or `best_f1` or
            `best_count`: that one which serves best on validation samples, at test and inference.
        max_detections: Objects per image and class in average precision, 100 in COCO.
        pixel_size: Micrometres per pixel for tables of objects, None when unknown.
        monitor: Metric that decides the best checkpoint.
        mode: `min`, `max`, or `auto`: min for losses and errors, else max.
        monitors: Further metrics, each with a best checkpoint of its own.

    Raises:
        UserError: A value is out of range.
    """

    needs = frozenset({"image", "objects"})
    options = ("data.intensity_range", "data.pixel_size", "task.score_threshold")

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        score_threshold: float | str = DEFAULT,
        max_detections: int = 100,
        pixel_size: float | None = None,
        monitor: str = "val/mask_ap50",
        mode: str = "auto",
        monitors: Sequence[str] = (),
    ) -> None:
        super().__init__(class_names=class_names, monitor=monitor, mode=mode, monitors=monitors)
        self._wanted = check_threshold(score_threshold)
        # While a network is trained nobody knows yet which one will serve best.
        self.score_threshold = DEFAULT if isinstance(self._wanted, str) else self._wanted
        self.max_detections = whole_number("task.max_detections", max_detections, least=1)
        self.pixel_size = check_pixel_size(pixel_size)
        self.scorer: Scorer = Scorer(self.class_names)

    def build_task(
        self,
        *,
        build_model: Callable[..., MaskRCNNSegmenter],
        build_loss: Callable[..., Loss],
        class_counts: Sequence[int] | None,
    ) -> Task:
        """Build network and loss for the classes of the data.

        `class_counts` is not used: proposals are sampled per image, so rare classes need no weights.
        """
        from polymask.families.instances.task import Task

        return Task(
            model=build_model(num_classes=len(self.class_names)),
            loss=build_loss(),
            num_classes=len(self.class_names),
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
            monitor=self.monitor,
            mode=self.mode,
        )

    @property
    def undecided(self) -> str:
        """Return the rule that chooses the score threshold, until it has."""
        waits = isinstance(self._wanted, str) and not self.validation
        return f"task.score_threshold={self._wanted}" if waits else ""

    def decisions(self, rows: Rows) -> Rows:
        """Return the scores of found objects, and which of them are there."""
        return counted_objects(rows) if "num_true" in rows else {}

    def decide(self, validation: Rows, task: base.Task | None = None) -> None:
        """Choose the score threshold, unless it is a number."""
        super().decide(validation)
        if validation and isinstance(self._wanted, str):
            self.score_threshold = chosen_threshold(self._wanted, validation)
            log.info("task.score_threshold=%s is %.4f on val", self._wanted, self.score_threshold)
        if task is not None:
            cast("Task", task).score_threshold = self.score_threshold

    def report(self, folder: Path, data: DataModule) -> base.Report:
        """Return the writer of a test run's tables and figures."""
        from polymask.families.instances.report import Report

        return Report(
            folder,
            scorer=self.scorer,
            data=data,
            score_threshold=self.score_threshold,
            pixel_size=self.pixel_size,
            validation=self.validation,
        )

    def picture(self, prediction: FoundObjects, record: Record) -> np.ndarray:
        """Return the true and the found objects side by side, the found ones of enough score."""
        from polymask.families.instances.drawing import instance_panel
        from polymask.families.instances.predictions import confident_objects
        from polymask.families.instances.truth import read_truth

        truth = read_truth(record, prediction.size)
        found = confident_objects(prediction, self.score_threshold)
        return instance_panel(record.read_image(), truth, found, self.class_names)

    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> base.Application:
        """Return what finds the objects of new images."""
        from polymask.families.instances.application import Application

        threshold = chosen_threshold(chosen.get("task.score_threshold", self._wanted), self.validation)
        if "task.score_threshold" in chosen:
            chosen = {**chosen, "task.score_threshold": threshold}
        return Application(
            data,
            chosen,
            class_names=self.class_names,
            score_threshold=threshold,
            pixel_size=self.pixel_size,
        )
