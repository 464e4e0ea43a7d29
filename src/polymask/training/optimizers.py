"""Optimizers with a learning rate of its own for the encoder and no weight decay where it does harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from polymask.errors import number

ParameterGroups = Mapping[str, Sequence[nn.Parameter]]


def adamw(
    groups: ParameterGroups,
    *,
    learning_rate: float,
    encoder_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019).

    Args:
        groups: Parameters by part, `encoder` and `rest`.
        learning_rate: Learning rate.
        encoder_learning_rate: Learning rate of the encoder, None for the same.
        weight_decay: Decay of weights; biases, norms and scalars are not decayed.
        betas: Decay of the two running averages.

    Raises:
        UserError: A rate or the decay is no number of at least 0.
    """
    return AdamW(
        _groups(groups, learning_rate, encoder_learning_rate, weight_decay), betas=(betas[0], betas[1])
    )


def adam(
    groups: ParameterGroups,
    *,
    learning_rate: float,
    encoder_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
) -> Optimizer:
    """Return Adam (Kingma & Ba 2015); arguments as in `adamw`."""
    return Adam(
        _groups(groups, learning_rate, encoder_learning_rate, weight_decay), betas=(betas[0], betas[1])
    )


def sgd(
    groups: ParameterGroups,
    *,
    learning_rate: float,
    encoder_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    """Return stochastic gradient descent with momentum; other arguments as in `adamw`."""
    parameters = _groups(groups, learning_rate, encoder_learning_rate, weight_decay)
    return SGD(parameters, momentum=momentum, nesterov=nesterov)


def _groups(
    groups: ParameterGroups,
    learning_rate: float,
    encoder_learning_rate: float | None,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Split each group into weights (with decay) and vectors (biases, norms, scalars: without)."""
    number("optimizer.learning_rate", learning_rate, least=0.0)
    if encoder_learning_rate is None:
        encoder_learning_rate = learning_rate
    number("optimizer.encoder_learning_rate", encoder_learning_rate, least=0.0)
    number("optimizer.weight_decay", weight_decay, least=0.0)
    rates = {"encoder": encoder_learning_rate}
    result = []
    for name, parameters in groups.items():
        for kind, decay in (("weights", weight_decay), ("vectors", 0.0)):
            chosen = [p for p in parameters if (p.ndim > 1) == (kind == "weights")]
            if chosen:
                rate = rates.get(name, learning_rate)
                result.append({"params": chosen, "lr": rate, "weight_decay": decay, "name": f"{name}_{kind}"})
    return result


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return `learning_rate`, and `learning_rate_encoder` when the encoder has another one."""
    by_part = {group["name"].rpartition("_")[0]: float(group["lr"]) for group in optimizer.param_groups}
    rate = by_part.get("rest", next(iter(by_part.values())))
    encoder = by_part.get("encoder", rate)
    return {"learning_rate": rate} | ({"learning_rate_encoder": encoder} if encoder != rate else {})
