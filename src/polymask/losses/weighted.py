"""A weighted sum of terms that a network computes itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask.errors import number


class WeightedTerms(nn.Module):
    """Sums up terms; nothing is learned here.

    Args:
        weights: Weight of each term, by its name.

    Raises:
        UserError: A weight is negative or no number.
    """

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self.weights = {name: number(f"loss.{name}", value, least=0.0) for name, value in weights.items()}

    def forward(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, and the terms themselves, detached and before their weights."""
        weighted = [self.weights[name] * value.float() for name, value in terms.items()]
        loss = torch.stack(weighted).sum()
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}
