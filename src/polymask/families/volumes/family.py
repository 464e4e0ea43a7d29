"""Objects of volumes: the options of the task, and what belongs to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from polymask.errors import whole_number
from polymask.families import base
from polymask.families.thresholds import DEFAULT, check_threshold, chosen_threshold
from polymask.families.volumes.linking import Linking
from polymask.families.volumes.scorer import Scorer
from polymask.families.volumes.voxel_size import parse_voxel_size
from polymask.metrics.volume_threshold import THRESHOLDS, best_volume_threshold, linked_objects
from polymask.structures.samples import Rows
from polymask.structures.volumes import FoundVolume
from polymask.utils.options import options_of

if TYPE_CHECKING:
    from polymask.data.module import DataModule
    from polymask.data.records import Record
    from polymask.families.volumes.loss import Loss
    from polymask.families.volumes.task import Task
    from polymask.models.slices.segmenter import SliceSegmenter

log = logging.getLogger(__name__)


class Family(base.Family):
    """Every object of a volume, found slice by slice and linked from slice to slice.

    Args:
        class_names: Names of the K classes, without the background.
        score_threshold: Least score of the sections that count; average precision of slices looks at all. Or
            `best_f1` or `best_count`: the one of `THRESHOLDS` whose linked objects are best on validation
            volumes, at test and inference.
        linking: Keys of `Linking`: how sections become objects. None for its defaults.
        every_slice: Of the annotated slices of a volume every so many enter the losses of an evaluation; as
            many as in training, where there is a data set.
        voxel_size: Edges of a voxel along z, y, x in micrometres for tables of objects, None when unknown.
        monitor: Metric that decides the best checkpoint.
        mode: `min`, `max`, or `auto`: min for losses and errors, else max.
        monitors: Further metrics, each with a best checkpoint of its own.

    Raises:
        UserError: A value is out of range.
    """

    needs = frozenset({"image", "volume"})
    options = (
        "data.voxel_size",
        "task.score_threshold",
        *(f"task.linking.{field.name}" for field in fields(Linking)),
    )

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        score_threshold: float | str = DEFAULT,
        linking: Mapping[str, Any] | None = None,
        every_slice: int = 1,
        voxel_size: Sequence[float] | None = None,
        monitor: str = "val/seg",
        mode: str = "auto",
        monitors: Sequence[str] = (),
    ) -> None:
        super().__init__(class_names=class_names, monitor=monitor, mode=mode, monitors=monitors)
        self._wanted = check_threshold(score_threshold)
        # While a network is trained nobody knows yet which one will serve best.
        self.score_threshold = DEFAULT if isinstance(self._wanted, str) else self._wanted
        self.linking = options_of(Linking, linking, "task.linking")
        self.every_slice = whole_number("task.every_slice", every_slice, least=1)
        self.voxel_size = parse_voxel_size(voxel_size)
        self.scorer: Scorer = Scorer()

    def build_task(
        self,
        *,
        build_model: Callable[..., SliceSegmenter],
        build_loss: Callable[..., Loss],
        class_counts: Sequence[int] | None,
    ) -> Task:
        """Build network and loss for the classes of the data.

        `class_counts` is not used: proposals are sampled per slice, so rare classes need no weights.
        """
        from polymask.families.volumes.task import Task

        model = build_model(num_classes=len(self.class_names))
        self.linking.check(embeds=model.embedding is not None)
        return Task(
            model=model,
            loss=build_loss(),
            linking=self.linking,
            every_slice=self.every_slice,
            num_classes=len(self.class_names),
            score_threshold=self.score_threshold,
            link_at=THRESHOLDS if isinstance(self._wanted, str) else (),
            monitor=self.monitor,
            mode=self.mode,
        )

    @property
    def undecided(self) -> str:
        """Return the rule that chooses the score threshold, until it has."""
        waits = isinstance(self._wanted, str) and not self.validation
        return f"task.score_threshold={self._wanted}" if waits else ""

    def decisions(self, rows: Rows) -> Rows:
        """Return what linking made of the sections with each threshold, where a rule asked for it."""
        return linked_objects(rows)

    def decide(self, validation: Rows, task: base.Task | None = None) -> None:
        """Choose the score threshold, unless it is a number."""
        super().decide(validation)
        if validation and isinstance(self._wanted, str):
            self.score_threshold = chosen_threshold(self._wanted, validation, best_volume_threshold)
            log.info("task.score_threshold=%s is %.2f on val", self._wanted, self.score_threshold)
        if task is not None:
            cast("Task", task).score_threshold = self.score_threshold

    def report(self, folder: Path, data: DataModule) -> base.Report:
        """Return the writer of a test run's tables and figures."""
        from polymask.families.volumes.report import Report

        return Report(
            folder,
            scorer=self.scorer,
            data=data,
            score_threshold=self.score_threshold,
            voxel_size=self.voxel_size,
            validation=self.validation,
        )

    def picture(self, prediction: FoundVolume, record: Record) -> np.ndarray:
        """Return the true and the found objects side by side, in cuts of three directions and in slices."""
        from polymask.families.volumes.drawing import volume_panel
        from polymask.families.volumes.scene import scene_of

        return volume_panel(scene_of(prediction, record, self.voxel_size))

    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> base.Application:
        """Return what finds the objects of new volumes."""
        from polymask.families.volumes.application import Application

        wanted = chosen.get("task.score_threshold", self._wanted)
        threshold = chosen_threshold(wanted, self.validation, best_volume_threshold)
        if "task.score_threshold" in chosen:
            chosen = {**chosen, "task.score_threshold": threshold}
        return Application(
            data,
            chosen,
            class_names=self.class_names,
            score_threshold=self.score_threshold,
            linking=self.linking,
            voxel_size=self.voxel_size,
        )
