"""Grey values through a window and a gamma that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_DARKEST = 1e-3  # below it, the slope of a power less than 1 would grow without bounds


class Intensity(nn.Module):
    """y = clamp((x - a) / (b - a), 0, 1)^g; at the start a = 0, b = g = 1, and y is x to the last bit.

    Three parameters: a, log(b - a) and log(g), so that b - a and g stay positive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.zeros(()))
        self.log_width = nn.Parameter(torch.zeros(()))
        self.log_gamma = nn.Parameter(torch.zeros(()))

    def forward(self, grey: Tensor) -> Tensor:
        """Map grey values in [0, 1] of any shape to [0, 1]."""
        level = ((grey - self.low) / self.log_width.exp()).clamp(0, 1)
        # level^g as level * level^(g - 1): for g = 1 the second factor is exp(0), exactly 1.
        exponent = self.log_gamma.exp() - 1
        return level * (exponent * level.clamp(min=_DARKEST).log()).exp()
