"""Reconstructions as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from polymask.reporting.canvas import WHITE, column, tile_size

_GREY = 128  # of patches that the encoder did not see


@dataclass(frozen=True, kw_only=True)
class ReconstructedImage:
    """An image and what the network made of the part that it saw; all (H, W, 3) uint8 RGB.

    Attributes:
        id: Id of the sample.
        image: What the network was given to learn.
        seen: The patches that the encoder saw, grey elsewhere.
        reconstruction: The same patches, and elsewhere those that were predicted.
    """

    id: str
    image: Tensor
    seen: Tensor
    reconstruction: Tensor


def reconstructed_images(
    ids: Sequence[str], images: Tensor, masked: Tensor, predicted: Tensor
) -> list[ReconstructedImage]:
    """Return the pictures of a batch.

    Args:
        ids: (B,) ids.
        images: (B, H, W, 3) uint8.
        masked: (B, H, W, 1) bool: the pixels of masked patches.
        predicted: (B, H, W, 3) float, of pixels from 0 to 255; only masked ones are looked at.
    """
    seen = images.masked_fill(masked, _GREY)
    whole = torch.where(masked, predicted.round().clamp(0, 255).to(torch.uint8), images)
    return [
        ReconstructedImage(id=id_, image=image, seen=part, reconstruction=made)
        for id_, image, part, made in zip(ids, images, seen, whole, strict=True)
    ]


def panel(prediction: ReconstructedImage) -> np.ndarray:
    """Return (H', W', 3) uint8 RGB: image, the part that was seen, and the reconstruction, side by side."""
    shown = {
        "image": prediction.image,
        "seen": prediction.seen,
        "reconstruction": prediction.reconstruction,
    }
    return np.hstack([column(_tile(value.cpu().numpy()), {name: WHITE}) for name, value in shown.items()])


def _tile(image: np.ndarray) -> np.ndarray:
    # Patches keep their edges, whatever the size.
    return cv2.resize(image, tile_size(image), interpolation=cv2.INTER_NEAREST)
