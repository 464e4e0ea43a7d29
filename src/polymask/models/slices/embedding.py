"""A head that learns which box of a neighbouring slice is the same object.

After MaskTrack R-CNN (Yang, Fan & Xu, "Video Instance Segmentation", ICCV 2019, arXiv 1905.04804), with z in
the place of time. Every box gets a vector v. The chance that box i is the earlier object j is
exp(<v_i, v_j>) / (1 + sum_k exp(<v_i, v_k>)) over the earlier objects k; the 1 stands for "a new object".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

_SIDE = 7  # pixels of the maps that the box head sees of a box
_LEAST_IOU = 0.5  # of a proposal that is taken for an object
_MOST_BOXES = 64  # proposals of an image that the head is trained on, beside the true boxes


class EmbeddingHead(nn.Module):
    """Two linear layers from what the box head sees of a box to a vector.

    Args:
        channels: C of the pyramid's maps.
        hidden: Width of the hidden layer.
        size: D, length of the vectors.
    """

    may_start_anew = True  # weights to start from may be those of a network that has none

    def __init__(self, channels: int, *, hidden: int = 1024, size: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels * _SIDE**2, hidden)
        self.out = nn.Linear(hidden, size)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return (N, D) float32 vectors of N boxes' (N, C, 7, 7) maps."""
        return self.out(self.hidden(pooled.flatten(1)).relu()).float()


def boxes_to_match(
    proposals: Sequence[Tensor], true_boxes: Sequence[Tensor], numbers: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return per image the boxes to train on: the true ones, and proposals with an IoU of 0.5 with one.

    Args:
        proposals: (P, 4) x0, y0, x1, y1 per image, best first.
        true_boxes: (N, 4) per image.
        numbers: (N,) number of each object in its volume.

    Returns:
        Boxes (M, 4), and the number (M,) of the object that each of them shows.
    """
    boxes, shown = [], []
    for places, truth, own in zip(proposals, true_boxes, numbers, strict=True):
        if len(truth) == 0:
            boxes.append(truth)
            shown.append(own)
            continue
        overlap, best = box_iou(truth, places.to(truth)).max(dim=0)
        rows = torch.where(overlap >= _LEAST_IOU)[0][:_MOST_BOXES]
        boxes.append(torch.cat([truth, places[rows].to(truth)]))
        shown.append(torch.cat([own, own[best[rows]]]))
    return boxes, shown


def matching_loss(
    vectors: Sequence[Tensor],
    numbers: Sequence[Tensor],
    earlier: Sequence[Tensor],
    earlier_numbers: Sequence[Tensor],
) -> Tensor:
    """Return the mean cross-entropy of "which earlier object, or a new one" over all boxes of a batch.

    Args:
        vectors: (M, D) of the boxes of each image.
        numbers: (M,) number of the object that each shows.
        earlier: (N, D) of the objects of the neighbouring slice, per image.
        earlier_numbers: (N,) their numbers.

    Returns:
        A scalar, 0 without boxes.
    """
    losses = [torch.cat([*vectors, *earlier]).sum() * 0]  # all weights have a gradient, whatever there is
    for own, shown, others, known in zip(vectors, numbers, earlier, earlier_numbers, strict=True):
        with torch.autocast(own.device.type, enabled=False):  # products of large numbers, near each other
            logits = torch.cat([own.new_zeros(len(own), 1), own @ others.T], dim=1)
        same = shown[:, None] == known  # (M, N), at most one in a row
        target = (same * torch.arange(1, len(known) + 1, device=known.device)).sum(dim=1)
        losses.append(F.cross_entropy(logits, target, reduction="sum"))
    return torch.stack(losses).sum() / max(sum(map(len, vectors)), 1)
