"""Instance segmentation: every object of an image with a class, a box and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from polymask.families.base import Batch
from polymask.families.instances.loss import Loss
from polymask.families.instances.truth import truth_of
from polymask.families.network import NetworkTask
from polymask.metrics.instance_matching import match_image
from polymask.models.mask_rcnn.segmenter import MaskRCNNSegmenter
from polymask.structures.objects import FoundObjects

if TYPE_CHECKING:
    pass


class Task(NetworkTask):
    """Finds objects with Mask R-CNN. Images keep their own sizes, so a batch holds a list of them.

    Args:
        model: The network.
        loss: Weights of its five losses.
        num_classes: Number of classes K, without the background.
        score_threshold: Least score of the objects that count.
        max_detections: Objects per image and class in average precision.
        monitor: Metric that decides the best checkpoint.
        mode: `min` or `max`.
    """

    has_fixed_shapes = False
    model: MaskRCNNSegmenter
    loss: Loss

    def __init__(
        self,
        *,
        model: MaskRCNNSegmenter,
        loss: Loss,
        num_classes: int,
        score_threshold: float = 0.5,
        max_detections: int = 100,
        monitor: str = "val/mask_ap50",
        mode: str = "max",
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.num_classes, self.max_detections = num_classes, max_detections
        self.score_threshold = score_threshold
        self.monitor, self.mode = monitor, mode

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` and the five terms."""
        return self.loss(self.model(self.images(batch), batch["target"]))

    def evaluation_step(self, batch: Batch) -> list[FoundObjects]:
        """Collect losses and the comparison of found with true objects; one pass through the backbone."""
        terms, found = self.model.evaluate(self.images(batch), batch["target"])
        predictions = self.model.to_objects(batch["ids"], found, sizes(batch))
        # Every sample carries its batch's loss: the mean over samples then weighs a short batch rightly.
        losses = {name: value.expand(len(predictions)) for name, value in self.loss(terms).items()}
        self.accumulator.update(batch["ids"], **losses, **self.compared(predictions, batch))
        return predictions

    def compared(self, predictions: Sequence[FoundObjects], batch: Batch) -> dict[str, Tensor]:
        """Return the comparison of found with true objects."""
        rows = [
            match_image(
                prediction,
                truth_of(target),
                num_classes=self.num_classes,
                max_detections=self.max_detections,
                score_threshold=self.score_threshold,
            )
            for prediction, target in zip(predictions, batch["target"], strict=True)
        ]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def images(self, batch: Batch) -> list[Tensor]:
        """Return (3, H, W) float32 images in [0, 1]; the network normalises them itself."""
        return [image.permute(2, 0, 1).float().div_(255) for image in batch["image"]]


def sizes(batch: Batch) -> list[tuple[int, int]]:
    """Return the (height, width) of each image in pixels."""
    return [(image.shape[0], image.shape[1]) for image in batch["image"]]
