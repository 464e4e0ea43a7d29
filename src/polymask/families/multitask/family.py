"""Masks and classes of images: the options of the task, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from polymask.data.images import FITS
from polymask.errors import UserError, choose
from polymask.families import base
from polymask.families.multitask.decisions import Decisions
from polymask.families.multitask.explanations import Explainer, wants_explanations
from polymask.families.multitask.mixing import Mixing
from polymask.families.multitask.original_size import parse_tolerances
from polymask.families.multitask.predictions import ImagePrediction, image_result
from polymask.families.multitask.scorer import Scorer
from polymask.structures.samples import Rows, TitledSample
from polymask.utils.options import options_of

if TYPE_CHECKING:
    from polymask.data.module import DataModule
    from polymask.data.records import Record
    from polymask.families.multitask.loss import Loss
    from polymask.families.multitask.task import Task
    from polymask.models.mask_class.classifier import SegmentationClassifier

SEGMENTATIONS = ("binary", "multiclass")


class Family(base.Family):
    """A mask and a class of each image, or one of the two.

    Args:
        class_names: Names of the K classes.
        class_weights: `none`, `balanced` or `effective`, see `polymask.losses.classification`.
        segmentation: `binary` (lesion or not), or `multiclass`: the mask tells the classes apart.
        predict_masks: Whether the network has a decoder.
        predict_classes: Whether the network has a classification head.
        fit: How images come to the network's size, see `polymask.data.images.fit_window`.
        surface_tolerances: Distances of outlines that a test counts as none (NSD), in pixels, or in
            millimetres where `data.pixel_size` is known.
        monitor: Metric that decides the best checkpoint, such as `val/loss` or `val/dice_lesion_image`.
        mode: `min`, `max`, or `auto`: min for losses and errors, else max.
        monitors: Further metrics, each with a best checkpoint of its own.
        training_metrics: Also collect the metrics of the training batches.
        mixing: Keys of `Mixing`: which training images are mixed in pairs. None for none.
        calibration: `none`, `temperature` or `temperature_per_class`: what is done to probabilities at test
            and inference, as the validation samples have it. None: `none`.
        class_groups: Group to the names of its classes.
        operating_points: Class or group to `sensitivity` or `specificity` to one or several wanted values.
        explain: Explain the classes of test samples, see `polymask.families.multitask.explanations`.

    Raises:
        UserError: Neither masks nor classes are predicted, there are no classes to predict, or a value is not
            allowed.
    """

    options = (
        *("data.intensity_range", "data.attribute_table"),
        *("tta", "calibration", "abstain_below", "explain"),
    )

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        class_weights: str = "none",
        segmentation: str = "binary",
        predict_masks: bool = True,
        predict_classes: bool = True,
        fit: str = "stretch",
        surface_tolerances: Sequence[float] = (),
        monitor: str = "val/loss",
        mode: str = "auto",
        monitors: Sequence[str] = (),
        training_metrics: bool = False,
        mixing: Mapping[str, float] | None = None,
        calibration: str | None = None,
        class_groups: Mapping[str, Sequence[str]] | None = None,
        operating_points: Mapping[str, Mapping[str, Any]] | None = None,
        explain: bool | None = False,
    ) -> None:
        super().__init__(class_names=class_names, monitor=monitor, mode=mode, monitors=monitors)
        if not (predict_masks or predict_classes):
            raise UserError(
                "task.predict_masks and task.predict_classes are both false; one of them must be true."
            )
        if predict_classes and not class_names:
            raise UserError(
                "data.classes=[] names no class, so there is nothing to classify: use task=segmentation."
            )
        self.multiclass = choose("task.segmentation", segmentation, SEGMENTATIONS) == "multiclass"
        self.predict_masks, self.predict_classes = predict_masks, predict_classes
        self.explain = wants_explanations(explain, predicts_classes=predict_classes)
        self.class_weights, self.training_metrics = class_weights, training_metrics
        self.mixing = options_of(Mixing, mixing, "task.mixing")
        if training_metrics and self.mixing.wanted:
            raise UserError(
                f"task.training_metrics=true has no truth to measure mixed images by ({self.mixing.wanted}): "
                "set it to false, or leave task.mixing out."
            )
        self.fit = choose("data.fit", fit, FITS)
        self.surface_tolerances = parse_tolerances(surface_tolerances)
        wanted = {"mask": predict_masks, "label": predict_classes}
        self.needs = frozenset({"image", *(word for word, is_wanted in wanted.items() if is_wanted)})
        self.scorer: Scorer = Scorer(self.class_names, multiclass=self.multiclass)
        self.choices = Decisions(
            self.class_names,
            calibration=calibration,
            class_groups=class_groups,
            operating_points=operating_points,
        )

    @property
    def answers(self) -> dict[str, str]:
        """What is predicted, and whether a mask tells the classes apart."""
        return super().answers | {"task.segmentation": SEGMENTATIONS[self.multiclass]}

    def build_task(
        self,
        *,
        build_model: Callable[..., SegmentationClassifier],
        build_loss: Callable[..., Loss],
        class_counts: Sequence[int] | None,
    ) -> Task:
        """Build network and loss with the outputs that data and options ask for."""
        from polymask.families.multitask.mixer import Mixer
        from polymask.families.multitask.task import Task
        from polymask.losses.classification import weigh_classes

        names = self.class_names
        of_classes: dict[str, Any] = {}
        if self.predict_classes and class_counts is not None:
            of_classes["weight_of_class"] = weigh_classes(class_counts, self.class_weights, class_names=names)
            of_classes["class_counts"] = dict(zip(names, class_counts, strict=True))
        loss = build_loss(**of_classes)
        self.mixing.check(loss, masks=self.predict_masks, classes=self.predict_classes)
        mixer = Mixer(self.mixing, num_masks=self._num_masks, num_classes=len(names))
        task = Task(
            model=build_model(
                num_masks=self._num_masks, num_classes=len(names) if self.predict_classes else 0
            ),
            loss=loss,
            num_classes=len(names),
            multiclass=self.multiclass,
            fit=self.fit,
            monitor=self.monitor,
            mode=self.mode,
            training_metrics=self.training_metrics,
            mixer=mixer if self.mixing.wanted else None,
        )
        if class_counts is None:  # while a network is trained, nobody looks at explanations
            task.explainer = self._explainer
        return task

    @property
    def _explainer(self) -> Explainer | None:
        if not self.explain or self.undecided:
            return None
        return Explainer(self.choices.temperature_of(self.choices.calibration))

    @property
    def _num_masks(self) -> int:
        """Return the channels of the masks' logits."""
        return (len(self.class_names) + 1 if self.multiclass else 1) if self.predict_masks else 0

    @property
    def undecided(self) -> str:
        """Return the calibration or operating points that still need validation rows."""
        return self.choices.undecided

    def decisions(self, rows: Rows) -> Rows:
        """Return what temperatures and thresholds follow from."""
        return self.choices.kept(rows)

    def decide(self, validation: Rows, task: base.Task | None = None) -> None:
        """Take what validation samples said; weights stay as they are."""
        self.choices.validation = validation
        if task is not None:
            cast("Task", task).explainer = self._explainer

    def decided(self, rows: Rows) -> Rows:
        """Return rows with the probabilities that count and the calls at operating points."""
        return self.choices.decided(rows)

    def report(self, folder: Path, data: DataModule) -> base.Report:
        """Return the writer of a test run's tables and figures."""
        from polymask.families.multitask.report import Report

        return Report(
            folder,
            scorer=self.scorer,
            data=data,
            choices=self.choices,
            fit=self.fit,
            surface_tolerances=self.surface_tolerances,
            explain=self.explain,
        )

    def training_samples(self, data: DataModule, num_images: int) -> list[TitledSample]:
        """Return mixed images, with the shares of their classes as titles."""
        from polymask.families.multitask.mixer import mixed_samples

        if not self.mixing.wanted:
            return []
        return mixed_samples(data.training_batch(max(2, num_images)), self.mixing, self.class_names)

    def picture(self, prediction: ImagePrediction, record: Record) -> np.ndarray:
        """Return the panel of one sample: image, predicted mask, outlines of truth and prediction."""
        from polymask.reporting.canvas import prediction_panel

        image = record.read_image()
        result = image_result(prediction, image.shape[:2], self.class_names, multiclass=self.multiclass)
        true = (record.read_mask() == 1).astype(np.uint8) if record.has_mask else None
        mask = result.mask if result.mask is not None else np.zeros(image.shape[:2], np.uint8)
        caption = " | ".join(filter(None, [record.id, result.predicted_class]))
        return prediction_panel(image, true, mask, caption)

    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> base.Application:
        """Return what predicts the masks and classes of new images."""
        from polymask.families.multitask.application import Application

        if chosen.get("abstain_below") is not None and not self.predict_classes:
            raise UserError("abstain_below= is of no use to a run that predicts no classes; leave it out.")
        wants_explanations(chosen.get("explain"), predicts_classes=self.predict_classes)
        kind = chosen.get("calibration", self.choices.calibration)
        return Application(
            data,
            chosen,
            class_names=self.class_names,
            multiclass=self.multiclass,
            temperature=self.choices.temperature_of(kind),
        )
