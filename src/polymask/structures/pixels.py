"""Pixels as networks take them."""

from __future__ import annotations

from torch import Tensor


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise the pixels of a batch.

    The permuted view of interleaved pixels already is in channels-last layout.

    Args:
        images: (B, H, W, C) uint8.
        mean: (C,), of pixels in [0, 1].
        std: (C,), likewise.

    Returns:
        (B, C, H, W) float32.
    """
    mean, std = (255 * values.view(1, -1, 1, 1) for values in (mean, std))
    return images.permute(0, 3, 1, 2).float().sub_(mean).div_(std)
