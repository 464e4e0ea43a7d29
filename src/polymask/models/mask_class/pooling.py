"""Ways to turn one feature map into one vector per image, all computed in float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pooling(nn.Module):
    """Turns a feature map (B, C, H, W), float32, into a vector (B, factor * C).

    Args:
        channels: C.

    Attributes:
        factor: Length of the vector in multiples of C.
    """

    factor = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


class AveragePooling(Pooling):
    """Mean over all positions."""

    def forward(self, feature: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C)."""
        return feature.mean(dim=(2, 3))


class MaxPooling(Pooling):
    """Maximum over all positions."""

    def forward(self, feature: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C)."""
        return feature.amax(dim=(2, 3))


class AverageMaxPooling(Pooling):
    """Mean and maximum, one after the other."""

    factor = 2

    def forward(self, feature: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, 2 * C)."""
        return torch.cat([feature.mean(dim=(2, 3)), feature.amax(dim=(2, 3))], dim=1)


class GeneralizedMeanPooling(Pooling):
    """Generalized mean `mean(x ** p) ** (1 / p)` with one learned p > 1, which starts at 3.

    p = 1 is the mean and p -> infinity the maximum. Values below 1e-6 count as 1e-6. From Radenovic et al.,
    "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.raw_p = nn.Parameter(torch.tensor(math.log(math.expm1(2.0))))

    @property
    def p(self) -> Tensor:
        """Return the exponent; as 1 + softplus it can come near 1 but never get stuck there."""
        return 1 + F.softplus(self.raw_p.float())

    def forward(self, feature: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C)."""
        feature = feature.clamp(min=1e-6)
        # The scale cancels out of the formula, so it needs no gradient; without it x ** p overflows.
        scale = feature.detach().amax(dim=(2, 3), keepdim=True)
        power = ((feature / scale) ** self.p).mean(dim=(2, 3)) ** (1 / self.p)
        return power * scale.flatten(1)


class AttentionPooling(Pooling):
    """Mean weighted by a softmax over the positions of a learned linear score."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.score = nn.Linear(channels, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, feature: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C)."""
        positions = feature.flatten(2)  # (B, C, H * W)
        score = torch.einsum("bcn,c->bn", positions, self.score.weight.float()[0])
        return torch.einsum("bcn,bn->bc", positions, score.softmax(dim=1))


POOLINGS: dict[str, type[Pooling]] = {
    "avg": AveragePooling,
    "max": MaxPooling,
    "avgmax": AverageMaxPooling,
    "gem": GeneralizedMeanPooling,
    "attention": AttentionPooling,
}


def masked_average(feature: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of a feature map weighted by a map of the same area.

    Args:
        feature: (B, C, H, W), float32.
        weight: (B, 1, H, W), not negative. An image whose weights are all 0 gets the vector 0.

    Returns:
        (B, C).
    """
    total = weight.sum(dim=(2, 3)).clamp(min=1e-6)
    return (feature * weight).sum(dim=(2, 3)) / total
