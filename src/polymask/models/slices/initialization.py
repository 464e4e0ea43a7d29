"""The rule by which a fusion starts: how much of each slice goes into the result."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polymask.errors import UserError, choose, number

CENTRE = "centre"
INITS = (CENTRE, "mean", "gaussian", "zero")


def shares(
    init: str, slices: int, sigma: float | None = None, *, allowed: Sequence[str] = INITS
) -> list[float]:
    """Return the share of each of n slices at the start.

    Args:
        init: `centre` (the slice itself alone), `mean`, `gaussian` (exp(-d^2 / 2 sigma^2) of the distance d
            in slices, divided by their sum) or `zero` (nothing of any slice: the result is constant).
        slices: n, odd.
        sigma: Width of the gaussian in slices, None for 1.
        allowed: The rules by which the fusion can start.

    Returns:
        n numbers with the sum of 1, or all 0.

    Raises:
        UserError: `init` or `sigma` is not valid, or there is a `sigma` without a gaussian.
    """
    choose("model.fusion.init", init, allowed)
    if sigma is not None and init != "gaussian":
        raise UserError(
            f"model.fusion.sigma={sigma} is of no use to model.fusion.init={init}; it belongs to "
            "init=gaussian: leave it out (null)."
        )
    width = number("model.fusion.sigma", 1.0 if sigma is None else sigma, above=0)
    distances = [place - slices // 2 for place in range(slices)]
    weights = {
        CENTRE: [float(distance == 0) for distance in distances],
        "mean": [1.0] * slices,
        "gaussian": [math.exp(-0.5 * (distance / width) ** 2) for distance in distances],
        "zero": [0.0] * slices,
    }[init]
    total = sum(weights) or 1.0
    return [weight / total for weight in weights]


def blend(stack: Tensor, weights: Sequence[float], *, dim: int = 1) -> Tensor:
    """Return the sum of slices, each with its share.

    Plain products and sums, and nothing of slices whose share is 0: with the centre alone the result is the
    centre, to the last bit, in whatever precision a device computes its convolutions.

    Args:
        stack: (…, n, …), n slices along `dim`.
        weights: n shares.
        dim: See there.
    """
    parts = [weight * stack.select(dim, place) for place, weight in enumerate(weights) if weight]
    return functools.reduce(torch.add, parts) if parts else torch.zeros_like(stack.select(dim, 0))
