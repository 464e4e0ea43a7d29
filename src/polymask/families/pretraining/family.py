"""Masked autoencoders: the options of the task, and what belongs to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polymask.families import base
from polymask.families.pretraining.predictions import ReconstructedImage
from polymask.families.pretraining.scorer import Scorer

if TYPE_CHECKING:
    from polymask.data.module import DataModule
    from polymask.data.records import Record
    from polymask.families.pretraining.loss import Loss
    from polymask.families.pretraining.task import Task
    from polymask.models.vit_mae.network import MaskedAutoencoder

log = logging.getLogger(__name__)

_RULE_BATCH = 256  # images, to which published learning rates of masked autoencoders refer


class Family(base.Family):
    """The missing patches of images; nothing but the images is needed, and nothing is there to be applied.

    Args:
        class_names: Of no effect, so that labelled data can be learned from without their labels.
        learning_rate: The optimizer's, for a line of the log; None to say nothing.
        batch_size: Images per optimisation step, likewise.
        monitor: Metric that decides the best checkpoint.
        mode: `min`, `max`, or `auto`: min for losses and errors, else max.
        monitors: Further metrics, each with a best checkpoint of its own.
    """

    needs = frozenset({"image"})
    encoder_path = "models/ssl_vit_backbone.pth"
    scorer: Scorer

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        learning_rate: float | None = None,
        batch_size: int | None = None,
        monitor: str = "val/loss",
        mode: str = "auto",
        monitors: Sequence[str] = (),
    ) -> None:
        super().__init__(class_names=class_names, monitor=monitor, mode=mode, monitors=monitors)
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.scorer = Scorer()

    @property
    def predicts(self) -> frozenset[str]:
        """What network and loss must be for."""
        return frozenset({"reconstruction"})

    def build_task(
        self,
        *,
        build_model: Callable[..., MaskedAutoencoder],
        build_loss: Callable[..., Loss],
        class_counts: Sequence[int] | None,
    ) -> Task:
        """Build network and loss; `class_counts` only tells whether the task will be trained."""
        from polymask.families.pretraining.task import Task

        if class_counts is not None and self.learning_rate is not None and self.batch_size is not None:
            # Published rates are scaled so; small data sets need the larger one, so it is no default.
            log.info(
                "learning rate %.3g as given; scaled by the linear rule (rate x batch / %d) for batches of "
                "%d images it would be %.3g",
                self.learning_rate,
                _RULE_BATCH,
                self.batch_size,
                self.learning_rate * self.batch_size / _RULE_BATCH,
            )
        return Task(model=build_model(), loss=build_loss(), monitor=self.monitor, mode=self.mode)

    def report(self, folder: Path, data: DataModule) -> base.Report:
        """Return the writer of a test run's tables and pictures."""
        from polymask.families.pretraining.report import Report

        return Report(folder, scorer=self.scorer, data=data)

    def picture(self, prediction: ReconstructedImage, record: Record) -> np.ndarray:
        """Return image, the part that was seen and the reconstruction side by side."""
        from polymask.families.pretraining.predictions import panel
        from polymask.reporting.canvas import text_bar

        shown = panel(prediction)
        return np.vstack([shown, text_bar(record.id, shown.shape[1])])
