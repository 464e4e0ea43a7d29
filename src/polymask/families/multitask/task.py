"""Lesion segmentation and diagnosis, together or one of them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymask.data.records import Record
from polymask.errors import UserError, choose
from polymask.families.base import Application, Batch, Report, Task, takes
from polymask.families.multitask.loss import MultitaskLoss
from polymask.families.multitask.predictions import (
    ImagePrediction,
    image_predictions,
    image_result,
    probabilities,
)
from polymask.losses.classification import class_weights as compute_class_weights
from polymask.metrics.accumulator import Accumulator
from polymask.metrics.classification import classification_metrics, per_class_metrics
from polymask.metrics.segmentation import (
    confusion_per_sample,
    count_masks,
    lesion_confusion_per_sample,
    lesion_scores,
    pixel_accuracy,
    segmentation_metrics,
)
from polymask.models.mask_class.smp import SegmentationClassifier


class MultitaskTask(Task):
    """Predicts a mask and a class of each image; which of the two follows from the model's outputs.

    Args:
        model: Returns `mask_logits` (B, C, H, W) and/or `class_logits` (B, K) of normalised images.
        loss: Weighted sum over both outputs.
        class_names: Names of the K classes.
        multiclass: The mask tells the classes apart (C = K + 1), instead of lesion or not (C = 1).
        monitor: Metric that decides the best checkpoint, such as `val/loss` or `val/dice_lesion_image`.
        mode: `min`, `max`, or `auto`: min for losses, max for everything else.
        training_metrics: Also collect the metrics of the training batches.
        learns_masks: Whether the model has masks.
    """

    samples = "images with one mask or class"
    options = ("data.intensity_range", "tta")

    def __init__(
        self,
        *,
        model: SegmentationClassifier,
        loss: MultitaskLoss,
        class_names: Sequence[str],
        multiclass: bool,
        monitor: str = "val/loss",
        mode: str = "auto",
        training_metrics: bool = False,
        learns_masks: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.class_names, self.multiclass = list(class_names), multiclass
        self.monitor, self.learns_masks = monitor, learns_masks
        choose("task.mode", mode, ("auto", "min", "max"))
        self.mode = mode if mode != "auto" else ("min" if "loss" in monitor else "max")
        self.accumulator = Accumulator()
        self.training_rows = Accumulator(repeats=True) if training_metrics else None
        self.rows: dict[str, np.ndarray] = {}

    def start_epoch(self, epoch: int) -> None:
        """Switch to training mode, with the backbone frozen if it is so in this epoch."""
        self.train()
        self.model.start_epoch(epoch)
        if self.training_rows is not None:
            self.training_rows.reset()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the encoder's parameters and all others, those of the loss included."""
        rest = [*self.model.other_parameters(), *self.loss.parameters()]
        return {"encoder": list(self.model.encoder_parameters()), "rest": rest}

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, `loss_segmentation`, `loss_classification` and the named terms."""
        batch = _with_integer_mask(batch)
        outputs = self.model(self.images(batch))
        if self.training_rows is not None:
            with torch.no_grad():
                self.training_rows.update(batch["ids"], **self._rows(probabilities(outputs), batch))
        return self.loss(outputs, batch)

    def training_metrics(self) -> dict[str, float]:
        """Return the metrics of `sample_metrics` over the epoch's training batches, if they are collected."""
        if self.training_rows is None:
            return {}
        metrics = self.sample_metrics(self.training_rows.compute())
        return {name: float(values[0]) for name, values in metrics.items()}

    def evaluation_step(self, batch: Batch) -> list[ImagePrediction]:
        """Collect confusions, class probabilities and losses of the batch."""
        batch = _with_integer_mask(batch)
        outputs = self.model(self.images(batch))
        size = len(batch["ids"])
        # Every sample carries its batch's loss: the mean over samples then weighs a short batch rightly.
        rows = {name: value.expand(size) for name, value in self.loss(outputs, batch).items()}
        for part, present in (("segmentation", "mask_rows"), ("classification", "label_rows")):
            if batch[present] is not None and len(batch[present]) == 0:
                # A batch without masks (or labels) has no such loss, which is not a loss of zero.
                for name in (f"loss_{part}", *(f"loss_{term}" for term in self.loss.term_names[part])):
                    if name in rows:
                        rows[name] = torch.full_like(rows[name], float("nan"))
        found = probabilities(outputs)
        self.accumulator.update(batch["ids"], **rows, **self._rows(found, batch))
        return image_predictions(batch["ids"], found)

    def _rows(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return what the metrics need of each sample, without waiting for the device."""
        rows = {}
        if "mask" in found:
            # From probabilities as in `mask_from_probabilities`, so that counts and mask files always agree.
            predicted = found["mask"].argmax(dim=1) if self.multiclass else (found["mask"][:, 0] > 0.5).long()
            num_classes = len(self.class_names) + 1 if self.multiclass else 2
            rows["confusion"] = confusion_per_sample(predicted, batch["mask"], num_classes)
            rows["lesion_confusion"] = lesion_confusion_per_sample(predicted, batch["mask"])
        if "label" in found:
            rows["class_probabilities"] = found["label"]
            rows["label"] = batch["label"]
        return rows

    def compute_metrics(self) -> dict[str, float]:
        """Return mean losses and the metrics of `sample_metrics`; the rows they come from stay in `rows`."""
        self.rows = rows = self.accumulator.compute()
        metrics = {name: float(values[0]) for name, values in self.sample_metrics(rows).items()}
        # Nothing found where nothing is scores 1: that there are such masks stands beside the scores.
        if num_empty := self.mask_counts().get("num_empty_masks", 0):
            metrics["num_empty_masks"] = float(num_empty)
        return self.mean_losses() | metrics

    def mask_counts(self) -> dict[str, int]:
        """Return the number of true masks and of empty ones in the rows of `compute_metrics`."""
        if "confusion" not in self.rows:
            return {}
        return count_masks(self.rows["lesion_confusion"], self.rows["confusion"])

    def mean_losses(self) -> dict[str, float]:
        """Return the mean of each loss over the samples that have it, from the rows of `compute_metrics`."""
        return {name: _mean(values) for name, values in self.rows.items() if name.startswith("loss")}

    def reset_metrics(self) -> None:
        """Forget the collected rows."""
        self.accumulator.reset()

    def sample_metrics(
        self, rows: dict[str, np.ndarray], weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute all metrics from collected rows.

        Args:
            rows: What the accumulator returned, N samples.
            weights: (R, N) sample weights (bootstrap), None for the point estimate.
            per_class: Add recall, precision, F1 and AUROC of each class.

        Returns:
            Metric name to (R,) values, NaN where undefined.
        """
        metrics: dict[str, np.ndarray] = {}
        if "confusion" in rows:
            names = self.class_names if self.multiclass else ["lesion"]
            lesion = rows["lesion_confusion"]
            metrics |= segmentation_metrics(rows["confusion"], weights, names, lesion)
            metrics |= pixel_accuracy(rows["confusion"], weights)
        if "class_probabilities" in rows and (rows["label"] >= 0).any():
            labels, probabilities = rows["label"], rows["class_probabilities"]
            metrics |= classification_metrics(labels, probabilities, weights)
            if per_class:
                metrics |= per_class_metrics(labels, probabilities, self.class_names, weights)
        return metrics

    def sample_scores(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the Dice of each lesion mask and the probability of each true class, where there are any."""
        scores = {}
        if "confusion" in rows:
            scores["dice_lesion"] = lesion_scores(rows["lesion_confusion"], rows["confusion"])["dice"]
        if "class_probabilities" in rows:
            labels = rows["label"]
            of_true = np.take_along_axis(rows["class_probabilities"], labels.clip(0)[:, None], axis=1)[:, 0]
            scores["true_class_probability"] = np.where(labels >= 0, of_true, np.nan)
        return scores

    def picture(self, prediction: ImagePrediction, record: Record) -> np.ndarray:
        """Return the panel of one sample: image, predicted mask, outlines of truth and prediction."""
        from polymask.reporting.canvas import prediction_panel

        image = record.read_image()
        result = image_result(prediction, image.shape[:2], self.class_names, multiclass=self.multiclass)
        true = (record.read_mask() == 1).astype(np.uint8) if record.has_mask else None
        mask = result.mask if result.mask is not None else np.zeros(image.shape[:2], np.uint8)
        caption = " | ".join(filter(None, [record.id, result.predicted_class]))
        return prediction_panel(image, true, mask, caption)

    def report(self, folder: Path, data: Any) -> Report:
        """Return the writer of a test run's tables and figures."""
        from polymask.families.multitask.report import ImageMaskReport

        return ImageMaskReport(folder, task=self, data=data)

    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> Application:
        """Return what applies the task to new images."""
        from polymask.families.multitask import application

        return application.Application(data, chosen, class_names=self.class_names, multiclass=self.multiclass)

    def images(self, batch: Batch) -> Tensor:
        """Return (B, 3, H, W) float32 normalised images of a (B, H, W, 3) uint8 batch.

        The permuted view of interleaved pixels already is in channels-last layout.
        """
        # Read anew from the model's buffers, because a checkpoint may bring its own normalisation.
        mean, std = (
            255 * values.view(1, 3, 1, 1) for values in (self.model.pixel_mean, self.model.pixel_std)
        )
        return batch["image"].permute(0, 3, 1, 2).float().sub_(mean).div_(std)


def build_task(
    *,
    build_model: Callable[..., SegmentationClassifier],
    build_loss: Callable[..., MultitaskLoss],
    class_names: Sequence[str],
    class_counts: Sequence[int] | None = None,
    class_weights: str = "none",
    segmentation: str = "binary",
    predict_masks: bool = True,
    predict_classes: bool = True,
    monitor: str = "val/loss",
    mode: str = "auto",
    training_metrics: bool = False,
) -> MultitaskTask:
    """Build model and loss with the outputs that the data and the choice of task ask for.

    Args:
        build_model: Takes `num_masks` and `num_classes`, 0 for none.
        build_loss: Takes `class_weights`, a tensor or None.
        class_names: Names of the classes.
        class_counts: Training images per class, for class weights; None when there is no training.
        class_weights: `none`, `balanced` or `effective`, see `polymask.losses.classification`.
        segmentation: `binary` or `multiclass`.
        predict_masks: Whether the model has a decoder.
        predict_classes: Whether the model has a classification head.
        monitor: See `MultitaskTask`.
        mode: See `MultitaskTask`.
        training_metrics: See `MultitaskTask`.

    Raises:
        UserError: Neither masks nor classes are predicted, or model or loss are those of another task.
    """
    if not (predict_masks or predict_classes):
        raise UserError(
            "task.predict_masks and task.predict_classes are both false; one of them must be true."
        )
    if not takes(build_model, num_masks=1, num_classes=1) or not takes(build_loss, class_weights=None):
        raise UserError(
            "model or loss are those of task=instance; the other tasks go with model=smp, "
            "mobilenet_transposed or unet_family, and with any loss but mask_rcnn."
        )
    if predict_classes and not class_names:
        raise UserError(
            "data.classes=[] names no class, so there is nothing to classify: use task=segmentation."
        )
    multiclass = segmentation == "multiclass"
    num_masks = (len(class_names) + 1 if multiclass else 1) if predict_masks else 0
    weights = None
    if predict_classes and class_counts is not None:
        weights = compute_class_weights(class_counts, class_weights, class_names=class_names)
    return MultitaskTask(
        model=build_model(num_masks=num_masks, num_classes=len(class_names) if predict_classes else 0),
        loss=build_loss(class_weights=weights),
        class_names=class_names,
        multiclass=multiclass,
        monitor=monitor,
        mode=mode,
        training_metrics=training_metrics,
        learns_masks=predict_masks,
    )


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are numbers, NaN when none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _with_integer_mask(batch: Batch) -> Batch:
    """Widen the mask on the device: the loader ships a byte per pixel."""
    return {**batch, "mask": batch["mask"].long()}
