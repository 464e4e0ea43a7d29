"""Thresholding in the place of a network: it gives masks and objects, and learns nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.models.classical.thresholding import dark_region
from polymask.structures import rle
from polymask.structures.gives import gives
from polymask.structures.objects import FoundObjects

_LOGIT = 10.0
"""Of pixels inside; outside it is as much below zero."""


@gives("mask", "objects")
def build_model(
    *,
    num_classes: int,
    num_masks: int | None = None,
    remove_hair: bool = False,
    pretrained: bool = False,
) -> ThresholdSegmenter:
    """Build what stands in for a network.

    Args:
        num_classes: Number of classes of objects, or of images.
        num_masks: Channels of the mask, None where objects are looked for.
        remove_hair: Paint over hair first.
        pretrained: Changes nothing.

    Raises:
        UserError: Classes were to be told apart.
    """
    if (num_masks or 1) > 1 or (num_masks is None and num_classes > 1):
        raise UserError(
            f"the baseline finds one region and knows no classes, but the run has {num_classes}; "
            "take a run with one class of objects, or with a mask of foreground and background."
        )
    return ThresholdSegmenter(remove_hair=remove_hair)


class ThresholdSegmenter(nn.Module):
    """Finds one dark region per image, see `dark_region`.

    Args:
        remove_hair: Paint over hair first.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, *, remove_hair: bool) -> None:
        super().__init__()
        self.remove_hair = remove_hair
        self.encoder = nn.Identity()  # for those who ask what kind there is
        self.score = nn.Parameter(torch.ones(()), requires_grad=False)  # of every object
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return `mask_logits` (B, 1, H, W) of (B, 3, H, W) images of values in [0, 1]."""
        masks = np.stack([self._region(image) for image in images])
        return {"mask_logits": (torch.from_numpy(masks)[:, None].to(images) * 2 - 1) * _LOGIT}

    def evaluate(
        self, images: Sequence[Tensor], target: Sequence[dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], list[np.ndarray]]:
        """Return a loss of 0, since nothing is learned, and what `predict` returns."""
        return {"loss_mask": torch.zeros_like(self.score)}, self.predict(images)

    def predict(self, images: Sequence[Tensor]) -> list[np.ndarray]:
        """Return the (H, W) bool region of each (3, H, W) image of values in [0, 1]."""
        return [self._region(image) for image in images]

    def to_objects(
        self, ids: Sequence[str], found: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> list[FoundObjects]:
        """Return each image's region as its one object; none where there is no region."""
        predictions = []
        for sample, region, size in zip(ids, found, sizes, strict=True):
            masks = [rle.encode(region)] if region.any() else []
            predictions.append(
                FoundObjects(
                    id=sample,
                    size=size,
                    boxes=np.array([rle.box(mask) for mask in masks], np.float32).reshape(-1, 4),
                    labels=np.zeros(len(masks), np.int64),
                    scores=np.full(len(masks), self.score.item(), np.float32),
                    masks=masks,
                )
            )
        return predictions

    def start_epoch(self, epoch: int) -> None:
        """Do nothing."""

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return none."""
        return []

    def other_parameters(self) -> list[nn.Parameter]:
        """Return what there is; none of it is trained."""
        return list(self.parameters())

    def _region(self, image: Tensor) -> np.ndarray:
        pixels = (255 * image.float()).round().byte().permute(1, 2, 0)
        return dark_region(np.ascontiguousarray(pixels.cpu().numpy()), remove_hair=self.remove_hair)
