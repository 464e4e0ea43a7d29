"""torchvision's proposals and heads, which learn nothing where regions are to be ignored.

A crowd region holds objects that nobody told apart: what is found there is neither right nor wrong. Anchors
and proposals that lie in such regions by half of their area or more, and match no object, are therefore no
background; and pixels of a region are not counted in the masks of objects that reach into it.

Targets may carry `ignored` beside torchvision's keys: (C, H, W) uint8, the masks of the C regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

LEAST_SHARE = 0.5
"""Share of an anchor's area inside the image that must lie in ignored regions for it to be left out."""

Target = dict[str, Tensor]


def covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return the share of each box' area inside the image that regions cover.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels, x1 and y1 exclusive; they may reach beyond the image.
        regions: (C, H, W) masks; where they overlap, pixels count once.

    Returns:
        (N,) float32, 0 for boxes outside the image or of no area; exact for whole pixels, to which
        coordinates are rounded.
    """
    if len(regions) == 0 or len(boxes) == 0:
        return boxes.new_zeros(len(boxes), dtype=torch.float32)
    height, width = regions.shape[-2:]
    union = regions.bool().any(dim=0)
    # Sums above and left of each corner, so that a box costs four look-ups whatever its size.
    sums = F.pad(union.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    x0, x1 = boxes[:, [0, 2]].round().long().clamp(0, width).T
    y0, y1 = boxes[:, [1, 3]].round().long().clamp(0, height).T
    covered = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return covered / ((x1 - x0) * (y1 - y0)).clamp(min=1)


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, in which anchors that lie in ignored regions are neither objects nor background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (1 object, 0 background, -1 not counted) and the matched box of each anchor."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for own, places, target in zip(labels, anchors, targets, strict=True):
            own[(own == 0) & (covered_share(places, _ignored(target)) >= LEAST_SHARE)] = -1
        return labels, boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and boxes, 0 where no anchor is counted."""
        if all((own < 0).all() for own in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class Heads(RoIHeads):
    """torchvision's, in which proposals and pixels of ignored regions are not counted."""

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[Target] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return sampled proposals, and the number of the object, label and regression target of each."""
        assert targets is not None
        kept = [self._counted(own, target) for own, target in zip(proposals, targets, strict=True)]
        return super().select_training_samples(kept, targets)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections and no losses, or in training no detections and three losses."""
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        assert targets is not None
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, offsets = self.box_predictor(pooled)
        if sum(map(len, labels)):
            loss_classifier, loss_boxes = fastrcnn_loss(logits, offsets, labels, regression_targets)
        else:  # all is ignored, and a mean over nothing would be no number
            loss_classifier, loss_boxes = logits.sum() * 0, offsets.sum() * 0
        rows = [torch.where(own > 0)[0] for own in labels]
        places = [own[row] for own, row in zip(proposals, rows, strict=True)]
        objects = [own[row] for own, row in zip(matched, rows, strict=True)]
        masks = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, places, image_shapes)))
        return [], {
            "loss_classifier": loss_classifier,
            "loss_box_reg": loss_boxes,
            "loss_mask": mask_loss(masks, places, objects, targets),
        }

    def _counted(self, proposals: Tensor, target: Target) -> Tensor:
        """Return the proposals that match an object or do not lie in ignored regions."""
        keep = covered_share(proposals, _ignored(target)) < LEAST_SHARE
        if len(target["boxes"]):
            best = box_iou(target["boxes"].to(proposals), proposals).amax(dim=0)
            keep |= best >= self.proposal_matcher.low_threshold
        return proposals[keep]


def mask_loss(
    logits: Tensor, proposals: list[Tensor], objects: list[Tensor], targets: list[Target]
) -> Tensor:
    """Return the mean cross-entropy of the pixels of all masks, without those of ignored regions.

    Args:
        logits: (P, K, M, M) of the P proposals of all images, for each class.
        proposals: Boxes (N, 4) per image.
        objects: Number of the object (N,) of each proposal, per image.
        targets: Objects and ignored regions per image.

    Returns:
        A scalar, 0 without proposals. Pixels count that belong to the object, or lie in no ignored region,
        by half or more.
    """
    size = logits.shape[-1]
    mask_targets, labels, counted = [], [], []
    for boxes, rows, target in zip(proposals, objects, targets, strict=True):
        mask_targets.append(project_masks_on_boxes(target["masks"], boxes, rows, size))
        labels.append(target["labels"][rows])
        counted.append(_counted_pixels(mask_targets[-1], boxes, _ignored(target), size))
    mask_target, label, weight = torch.cat(mask_targets), torch.cat(labels), torch.cat(counted)
    if mask_target.numel() == 0:
        return logits.sum() * 0
    own = logits[torch.arange(len(label), device=label.device), label]
    if weight.all():  # torchvision's own mean, to the last bit
        return F.binary_cross_entropy_with_logits(own, mask_target)
    loss = F.binary_cross_entropy_with_logits(own, mask_target, reduction="none")
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def _ignored(target: Target) -> Tensor:
    return target.get("ignored", target["masks"][:0])


def _counted_pixels(mask_target: Tensor, boxes: Tensor, ignored: Tensor, size: int) -> Tensor:
    """Return (N, M, M) bool: the pixels of the object, and those outside of ignored regions."""
    if len(ignored) == 0 or len(boxes) == 0:
        return torch.ones_like(mask_target, dtype=torch.bool)
    union = ignored.bool().any(dim=0, keepdim=True).to(torch.uint8)
    first = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return (mask_target >= 0.5) | (project_masks_on_boxes(union, boxes, first, size) < 0.5)


def with_methods_of(cls: type[nn.Module], module: nn.Module) -> nn.Module:
    """Return a built module of torchvision as a subclass that adds methods and no state."""
    new = cls.__new__(cls)
    new.__setstate__(vars(module))
    return new
