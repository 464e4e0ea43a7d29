"""Instance segmentation: every object of an image with a class, a box and a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from polymask.errors import UserError, choose, number, whole_number
from polymask.families.base import Application, Batch, Report, Task, takes
from polymask.families.instances.data import check_pixel_size
from polymask.families.instances.loss import InstanceLoss
from polymask.metrics.accumulator import Accumulator
from polymask.metrics.instance_matching import match_image
from polymask.metrics.instances import instance_metrics
from polymask.metrics.segmentation import lesion_scores
from polymask.models.mask_rcnn.model import MaskRCNNSegmenter
from polymask.models.mask_rcnn.pasting import to_predictions
from polymask.structures import rle
from polymask.structures.objects import InstancePrediction, InstanceTruth

if TYPE_CHECKING:
    from polymask.data.object_record import InstanceRecord


class InstanceTask(Task):
    """Finds objects with Mask R-CNN. Images keep their own sizes, so a batch holds a list of them.

    Args:
        model: The network.
        loss: Weights of its five losses.
        class_names: Names of the K classes, without the background.
        score_threshold: Least score of the objects that count in precision, recall, counts, masks of the
            union, overlays and label maps; average precision looks at all of them.
        max_detections: Objects per image and class in average precision, 100 in COCO.
        pixel_size: Micrometres per pixel for tables of objects, None when unknown.
        monitor: Metric that decides the best checkpoint.
        mode: `min`, `max`, or `auto`: min for losses, max for everything else.
    """

    samples = "images with objects"
    options = ("data.intensity_range", "data.pixel_size", "task.score_threshold")

    def __init__(
        self,
        *,
        model: MaskRCNNSegmenter,
        loss: InstanceLoss,
        class_names: Sequence[str],
        score_threshold: float = 0.5,
        max_detections: int = 100,
        pixel_size: float | None = None,
        monitor: str = "val/mask_ap50",
        mode: str = "auto",
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.class_names = list(class_names)
        self.score_threshold = number("task.score_threshold", score_threshold, least=0, most=1)
        self.max_detections = whole_number("task.max_detections", max_detections, least=1)
        self.pixel_size = check_pixel_size(pixel_size)
        self.monitor = monitor
        choose("task.mode", mode, ("auto", "min", "max"))
        self.mode = mode if mode != "auto" else ("min" if "loss" in monitor else "max")
        self.accumulator = Accumulator()
        self.rows: dict[str, np.ndarray] = {}

    def start_epoch(self, epoch: int) -> None:
        """Switch to training mode; frozen layers stay frozen."""
        self.train()
        self.model.start_epoch(epoch)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the backbone's parameters and all others."""
        return {
            "encoder": list(self.model.encoder_parameters()),
            "rest": list(self.model.other_parameters()),
        }

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` and the five terms."""
        return self.loss(self.model(self.images(batch), batch["target"]))

    def evaluation_step(self, batch: Batch) -> list[InstancePrediction]:
        """Collect losses and the comparison of found with true objects; one pass through the backbone."""
        terms, found = self.model.evaluate(self.images(batch), batch["target"])
        predictions = to_predictions(batch["ids"], found, _sizes(batch))
        rows = [
            match_image(
                prediction,
                truth_of(target),
                num_classes=len(self.class_names),
                max_detections=self.max_detections,
                score_threshold=self.score_threshold,
            )
            for prediction, target in zip(predictions, batch["target"], strict=True)
        ]
        # Every sample carries its batch's loss: the mean over samples then weighs a short batch rightly.
        losses = {name: value.expand(len(predictions)) for name, value in self.loss(terms).items()}
        compared = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        self.accumulator.update(batch["ids"], **losses, **compared)
        return predictions

    def compute_metrics(self) -> dict[str, float]:
        """Return mean losses and the metrics of `sample_metrics`; the rows they come from stay in `rows`."""
        self.rows = rows = self.accumulator.compute()
        metrics = self.sample_metrics(rows)
        return self.mean_losses() | {name: float(values[0]) for name, values in metrics.items()}

    def mean_losses(self) -> dict[str, float]:
        """Return the mean of each loss over the samples, from the rows of `compute_metrics`."""
        return {name: float(values.mean()) for name, values in self.rows.items() if name.startswith("loss")}

    def reset_metrics(self) -> None:
        """Forget the collected rows."""
        self.accumulator.reset()

    def sample_metrics(
        self, rows: dict[str, np.ndarray], weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Return average precisions, counts and the overlap of the union; those of each class always."""
        return instance_metrics(rows, weights, self.class_names)

    def sample_scores(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the Dice of the union of objects and the IoU of the best found mask with it."""
        union = rows["union_confusion"]
        return {
            "dice_lesion": lesion_scores(union[:, 1], union)["dice"],
            "top_mask_iou": rows["top_mask_iou"].astype(np.float64),
        }

    def picture(self, prediction: InstancePrediction, record: InstanceRecord) -> np.ndarray:
        """Return the true and the found objects side by side, the found ones of enough score."""
        from polymask.families.instances.drawing import instance_panel
        from polymask.families.instances.report import read_truth
        from polymask.families.instances.tables import sure_objects

        truth = read_truth(record, prediction.size)
        sure = sure_objects(prediction, self.score_threshold)
        return instance_panel(record.read_image(), truth, sure, self.class_names)

    def report(self, folder: Path, data: Any) -> Report:
        """Return the writer of a test run's tables and figures."""
        from polymask.families.instances.report import InstanceReport

        return InstanceReport(folder, task=self, data=data)

    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> Application:
        """Return what applies the task to new images."""
        from polymask.families.instances import application

        return application.Application(
            data,
            chosen,
            class_names=self.class_names,
            score_threshold=self.score_threshold,
            pixel_size=self.pixel_size,
        )

    def images(self, batch: Batch) -> list[Tensor]:
        """Return (3, H, W) float32 images in [0, 1]; the network normalises them itself."""
        return [image.permute(2, 0, 1).float().div_(255) for image in batch["image"]]


def build_task(
    *,
    build_model: Callable[..., MaskRCNNSegmenter],
    build_loss: Callable[..., InstanceLoss],
    class_names: Sequence[str],
    class_counts: Sequence[int] | None = None,
    score_threshold: float = 0.5,
    max_detections: int = 100,
    pixel_size: float | None = None,
    monitor: str = "val/mask_ap50",
    mode: str = "auto",
) -> InstanceTask:
    """Build network and loss for the classes of the data.

    Args:
        build_model: Takes `num_classes`, without the background.
        build_loss: Takes nothing.
        class_names: Names of the classes.
        class_counts: Not used: proposals are sampled per image, so rare classes need no weights.
        score_threshold: See `InstanceTask`.
        max_detections: See `InstanceTask`.
        pixel_size: See `InstanceTask`.
        monitor: See `InstanceTask`.
        mode: See `InstanceTask`.

    Raises:
        UserError: Model or loss are those of another task, or a value is not allowed.
    """
    _check_companions(build_model, build_loss)
    return InstanceTask(
        model=build_model(num_classes=len(class_names)),
        loss=build_loss(),
        class_names=class_names,
        score_threshold=score_threshold,
        max_detections=max_detections,
        pixel_size=pixel_size,
        monitor=monitor,
        mode=mode,
    )


def _check_companions(build_model: Callable[..., Any], build_loss: Callable[..., Any]) -> None:
    """Raise UserError when model or loss are configured for another task, before either is built."""
    loss = build_loss.func if isinstance(build_loss, partial) else build_loss
    if not takes(build_model, num_classes=1) or not (
        isinstance(loss, type) and issubclass(loss, InstanceLoss)
    ):
        raise UserError(
            "task=instance goes with model=mask_rcnn, loss=mask_rcnn and data=coco or label_maps; "
            "experiment=mask_rcnn chooses them all."
        )


def truth_of(target: dict[str, Tensor]) -> InstanceTruth:
    """Return the target of one image in plain containers."""
    masks = target["masks"].cpu().numpy()
    return InstanceTruth(
        size=(masks.shape[1], masks.shape[2]),
        boxes=target["boxes"].cpu().numpy(),
        labels=target["labels"].cpu().numpy(),
        masks=[rle.encode(mask) for mask in masks],
        crowd=target["crowd"].cpu().numpy(),
    )


def _sizes(batch: Batch) -> list[tuple[int, int]]:
    return [(image.shape[0], image.shape[1]) for image in batch["image"]]
