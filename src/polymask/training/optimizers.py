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
    layer_decay: float | None = None,
    betas: Sequence[float] = (0.9, 0.999),
) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019).

    Args:
        groups: Parameters by part, `encoder` and `rest`, the encoder's also by layer (see `by_layer`).
        learning_rate: Learning rate.
        encoder_learning_rate: Learning rate of the encoder, None for the same.
        weight_decay: Decay of weights; biases, norms and scalars are not decayed.
        layer_decay: What the encoder's rate is multiplied by from each of its layers to the one before.
        betas: Decay of the two running averages.

    Raises:
        UserError: A rate or a decay is not a number that is allowed.
    """
    parameters = _groups(groups, learning_rate, encoder_learning_rate, weight_decay, layer_decay)
    return AdamW(parameters, betas=(betas[0], betas[1]))


def adam(
    groups: ParameterGroups,
    *,
    learning_rate: float,
    encoder_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
    betas: Sequence[float] = (0.9, 0.999),
) -> Optimizer:
    """Return Adam (Kingma & Ba 2015); arguments as in `adamw`."""
    parameters = _groups(groups, learning_rate, encoder_learning_rate, weight_decay, layer_decay)
    return Adam(parameters, betas=(betas[0], betas[1]))


def sgd(
    groups: ParameterGroups,
    *,
    learning_rate: float,
    encoder_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    """Return stochastic gradient descent with momentum; other arguments as in `adamw`."""
    parameters = _groups(groups, learning_rate, encoder_learning_rate, weight_decay, layer_decay)
    return SGD(parameters, momentum=momentum, nesterov=nesterov)


def by_layer(groups: ParameterGroups, layers: Sequence[Sequence[nn.Parameter]]) -> ParameterGroups:
    """Divide the encoder's parameters into `encoder/00`, `encoder/01` and so on, for rates of their own.

    Args:
        groups: Parameters by part.
        layers: All parameters of each layer of the encoder, its embeddings first.

    Returns:
        One part per layer, empty where nothing of it is trained; `encoder` holds what is in no layer.
    """
    encoder = groups["encoder"]
    layer_of = {parameter: number for number, layer in enumerate(layers) for parameter in layer}
    divided = {
        f"encoder/{number:02d}": [p for p in encoder if layer_of.get(p) == number]
        for number in range(len(layers))
    }
    return {**divided, **groups, "encoder": [p for p in encoder if p not in layer_of]}


def _groups(
    groups: ParameterGroups,
    learning_rate: float,
    encoder_learning_rate: float | None,
    weight_decay: float,
    layer_decay: float | None,
) -> list[dict[str, Any]]:
    """Split each group into weights (with decay) and vectors (biases, norms, scalars: without)."""
    number("optimizer.weight_decay", weight_decay, least=0.0)
    rates = _rates(groups, learning_rate, encoder_learning_rate, layer_decay)
    result = []
    for name, parameters in groups.items():
        for kind, decay in (("weights", weight_decay), ("vectors", 0.0)):
            chosen = [p for p in parameters if _is_weight(p, name) == (kind == "weights")]
            if chosen:
                group = {"params": chosen, "lr": rates[name], "weight_decay": decay}
                result.append({**group, "name": f"{name}_{kind}"})
    return result


def _rates(
    groups: ParameterGroups,
    learning_rate: float,
    encoder_learning_rate: float | None,
    layer_decay: float | None,
) -> dict[str, float]:
    """Return the learning rate of each part.

    With layers it falls from the head down (Clark et al., ELECTRA, ICLR 2020): layer l of n has the encoder's
    rate times `layer_decay` to the power of n - l. What follows the layers has the full rate.
    """
    number("optimizer.learning_rate", learning_rate, least=0.0)
    if encoder_learning_rate is None:
        encoder_learning_rate = learning_rate
    number("optimizer.encoder_learning_rate", encoder_learning_rate, least=0.0)
    if layer_decay is None:
        layer_decay = 1.0
    number("optimizer.layer_decay", layer_decay, above=0.0, most=1.0)
    rates = {**dict.fromkeys(groups, learning_rate), "encoder": encoder_learning_rate}
    layers = [name for name in groups if _is_layer(name)]
    for distance, name in enumerate(reversed(layers), start=1):
        rates[name] = encoder_learning_rate * layer_decay**distance
    return rates


def _is_layer(part: str) -> bool:
    return part.startswith("encoder/")


def _is_weight(parameter: nn.Parameter, part: str) -> bool:
    """Return whether a parameter is decayed; in a transformer's layers, those of three axes are tables."""
    return parameter.ndim > 1 and not (_is_layer(part) and parameter.ndim == 3)


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return `learning_rate`, and `learning_rate_encoder` when the encoder has another one.

    Of an encoder whose rate differs from layer to layer, it is the highest, which its last layer has.
    """
    by_part = {group["name"].rpartition("_")[0]: float(group["lr"]) for group in optimizer.param_groups}
    rate = by_part.get("rest", max(by_part.values()))
    encoder = max((lr for part, lr in by_part.items() if part == "encoder" or _is_layer(part)), default=rate)
    return {"learning_rate": rate} | ({"learning_rate_encoder": encoder} if encoder != rate else {})
