"""Lesion segmentation and diagnosis, together or one of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polymask.families.base import Batch
from polymask.families.multitask.explanations import Explainer
from polymask.families.multitask.loss import Loss
from polymask.families.multitask.predictions import (
    ImagePrediction,
    image_predictions,
    probabilities,
    probabilities_together,
)
from polymask.families.network import NetworkTask
from polymask.metrics.mask_quality import mask_agreement_rows
from polymask.metrics.pixel_calibration import pixel_rows
from polymask.metrics.segmentation import confusion_per_sample, lesion_confusion_per_sample
from polymask.models.mask_class.classifier import SegmentationClassifier
from polymask.structures.pixels import normalized
from polymask.structures.samples import Rows

if TYPE_CHECKING:
    from polymask.families.multitask.mixer import Mixer
    from polymask.metrics.accumulator import Accumulator


class Task(NetworkTask):
    """Predicts a mask and a class of each image; which of the two follows from the model's outputs.

    Args:
        model: Returns `mask_logits` (B, C, H, W) and/or `class_logits` (B, K) of normalised images.
        loss: Weighted sum over both outputs.
        num_classes: Number of classes K.
        multiclass: The mask tells the classes apart (C = K + 1), instead of lesion or not (C = 1).
        fit: How images come to the network's size, see `polymask.data.images.fit_window`.
        monitor: Metric that decides the best checkpoint.
        mode: `min` or `max`.
        training_metrics: Also keep the rows of the training batches.
        mixer: Mixes training images in pairs, None to leave them as they are.

    Attributes:
        explainer: Explains the predictions of an evaluation; None, as it is at first, for no explanations.
    """

    model: SegmentationClassifier
    loss: Loss

    def __init__(
        self,
        *,
        model: SegmentationClassifier,
        loss: Loss,
        num_classes: int,
        multiclass: bool,
        fit: str = "stretch",
        monitor: str = "val/loss",
        mode: str = "min",
        training_metrics: bool = False,
        mixer: Mixer | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.mixer = model, loss, mixer
        self.num_classes, self.multiclass, self.fit = num_classes, multiclass, fit
        self.monitor, self.mode = monitor, mode
        self.training_metrics = training_metrics
        self.explainer: Explainer | None = None

    def start_epoch(self, epoch: int) -> None:
        """Switch to training mode, with the backbone frozen if it is so in this epoch."""
        super().start_epoch(epoch)
        if self.mixer is not None:
            self.mixer.start_epoch()
        if self.training_metrics:
            self.training_accumulator.reset()

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, `loss_segmentation`, `loss_classification` and the named terms."""
        batch = _with_integer_mask(batch)
        images = self.images(batch)
        if self.mixer is not None:
            images, batch = self.mixer(images, batch)
        outputs = self.model(images, **self.metadata(batch))
        if self.training_metrics:
            with torch.no_grad():
                rows = self._rows(probabilities(outputs), batch)
                self.training_accumulator.update(batch["ids"], **rows)
        return self.loss(outputs, batch)

    @cached_property
    def training_accumulator(self) -> Accumulator:
        """What `training_step` puts its rows into."""
        return self.new_accumulator(repeats=True)

    def training_rows(self) -> Rows:
        """Return the rows of the epoch's training batches, if they are kept."""
        return self.training_accumulator.compute() if self.training_metrics else {}

    def evaluation_step(self, batch: Batch) -> list[ImagePrediction]:
        """Collect confusions, class probabilities and losses of the batch."""
        batch = _with_integer_mask(batch)
        with self.explainer.watch(self.model) if self.explainer else nullcontext() as kept:
            outputs = self.model(self.images(batch), **self.metadata(batch))
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
        self.accumulator.update(batch["ids"], **rows, **self._evaluation_rows(found, batch))
        if self.explainer and kept is not None:
            size = batch["image"].shape[1:3]
            found["explanation"] = self.explainer.maps(self.model, kept, found["label"], size)
        return image_predictions(batch["ids"], found, self.fit)

    def compared(self, predictions: Sequence[ImagePrediction], batch: Batch) -> dict[str, Tensor]:
        """Return the rows of predictions, their masks on the grid of the batch's own."""
        found = probabilities_together(predictions, batch["sizes"])
        return self._evaluation_rows(found, _with_integer_mask(batch))

    def _evaluation_rows(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the rows of `_rows`, and those that are too much for every step of a training."""
        rows = self._rows(found, batch)
        if "mask" in found:
            lesion = 1 - found["mask"][:, 0] if self.multiclass else found["mask"][:, 0]
            rows |= mask_agreement_rows(found["mask"], batch["mask"]) | pixel_rows(lesion, batch["mask"])
        return rows

    def _rows(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return what the metrics need of each sample, without waiting for the device."""
        rows = {}
        if "mask" in found:
            # From probabilities as in `mask_from_probabilities`, so that counts and mask files always agree.
            predicted = found["mask"].argmax(dim=1) if self.multiclass else (found["mask"][:, 0] > 0.5).long()
            num_classes = self.num_classes + 1 if self.multiclass else 2
            rows["confusion"] = confusion_per_sample(predicted, batch["mask"], num_classes)
            rows["lesion_confusion"] = lesion_confusion_per_sample(predicted, batch["mask"])
        if "label" in found:
            rows["class_probabilities"] = found["label"]
            rows["label"] = batch["label"]
        return rows

    @staticmethod
    def metadata(batch: Batch) -> dict[str, Tensor]:
        """Return what the model takes beside images: `metadata` where the batch has some."""
        return {"metadata": batch["metadata"]} if "metadata" in batch else {}

    def images(self, batch: Batch) -> Tensor:
        """Return (B, 3, H, W) float32 normalised images of a (B, H, W, 3) uint8 batch."""
        # Read anew from the model's buffers, because a checkpoint may bring its own normalisation.
        return normalized(batch["image"], self.model.pixel_mean, self.model.pixel_std)


def _with_integer_mask(batch: Batch) -> Batch:
    """Widen the mask on the device: the loader ships a byte per pixel."""
    return {**batch, "mask": batch["mask"].long()}
