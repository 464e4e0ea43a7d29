from __future__ import annotations

import pytest
import torch
from torch import nn

from polymask.errors import UserError
from polymask.training.optimizers import adam, adamw, by_layer, learning_rates, sgd

BUILDERS = [adamw, adam, sgd]


def parameters() -> dict[str, list[nn.Parameter]]:
    """An encoder of convolution and norm; a rest of a linear layer and a scalar."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    head = nn.Linear(4, 2)
    return {
        "encoder": list(encoder.parameters()),
        "rest": [*head.parameters(), nn.Parameter(torch.ones(()))],
    }


def all_of(groups: dict[str, list[nn.Parameter]]) -> list[nn.Parameter]:
    return [parameter for members in groups.values() for parameter in members]


@pytest.mark.parametrize("build", BUILDERS)
def test_every_parameter_is_in_one_group(build):
    groups = parameters()
    optimizer = build(groups, learning_rate=0.1)
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in all_of(groups))


@pytest.mark.parametrize("build", BUILDERS)
def test_vectors_and_scalars_are_not_decayed(build):
    groups = parameters()
    optimizer = build(groups, learning_rate=0.1, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {p.ndim: decay[id(p)] for p in all_of(groups)} == {4: 0.5, 2: 0.5, 1: 0.0, 0: 0.0}


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(("encoder_rate", "expected"), [(None, 0.1), (0.01, 0.01), (0.0, 0.0)])
def test_encoder_has_its_own_rate_where_one_is_given(build, encoder_rate, expected):
    groups = parameters()
    optimizer = build(groups, learning_rate=0.1, encoder_learning_rate=encoder_rate)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rate[id(p)] for p in groups["encoder"]} == {expected}
    assert {rate[id(p)] for p in groups["rest"]} == {0.1}
    names = {"learning_rate": 0.1} | ({} if expected == 0.1 else {"learning_rate_encoder": expected})
    assert learning_rates(optimizer) == names


def test_rate_of_a_task_without_encoder():
    groups = parameters()
    assert learning_rates(sgd({"rest": groups["rest"]}, learning_rate=0.2)) == {"learning_rate": 0.2}
    assert learning_rates(sgd(groups | {"rest": []}, learning_rate=0.2)) == {"learning_rate": 0.2}


class Layered(nn.Module):
    """Embeddings, two blocks, a norm behind them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(1, 4, 2))
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.norm, self.head = nn.LayerNorm(2), nn.Conv1d(2, 2, 3)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        encoder = [self.table, *self.blocks.parameters(), *self.norm.parameters()]
        parts = {"encoder": encoder, "rest": list(self.head.parameters())}
        return by_layer(parts, [[self.table], *(list(block.parameters()) for block in self.blocks)])


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(("encoder_rate", "top"), [(None, 1.0), (0.1, 0.1)])
def test_rates_fall_from_layer_to_layer(build, encoder_rate, top):
    network = Layered()
    optimizer = build(
        network.groups(),
        learning_rate=1.0,
        encoder_learning_rate=encoder_rate,
        weight_decay=0.5,
        layer_decay=0.5,
    )
    found = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        "encoder/00_vectors": (top / 8, 0.0),  # the table of positions: no decay
        "encoder/01_weights": (top / 4, 0.5),
        "encoder/01_vectors": (top / 4, 0.0),
        "encoder/02_weights": (top / 2, 0.5),
        "encoder/02_vectors": (top / 2, 0.0),
        "encoder_vectors": (top, 0.0),  # the norm
        "rest_weights": (1.0, 0.5),  # of three axes, too, but no table
        "rest_vectors": (1.0, 0.0),
    }
    encoder = {} if top == 1.0 else {"learning_rate_encoder": top}
    assert learning_rates(optimizer) == {"learning_rate": 1.0} | encoder


def test_the_rate_of_layers_is_that_of_the_last():
    groups = {name: members for name, members in Layered().groups().items() if name != "encoder"}
    optimizer = sgd(groups, learning_rate=1.0, layer_decay=0.5)
    assert learning_rates(optimizer) == {"learning_rate": 1.0, "learning_rate_encoder": 0.5}


@pytest.mark.parametrize("layer_decay", [0, 1.5])
def test_a_layer_decay_is_a_share(layer_decay):
    with pytest.raises(UserError, match=rf"optimizer\.layer_decay={layer_decay} is not valid; .* at most 1"):
        sgd(Layered().groups(), learning_rate=1.0, layer_decay=layer_decay)


def one_step(optimizer: torch.optim.Optimizer, groups: dict[str, list[nn.Parameter]]) -> list[torch.Tensor]:
    """The change of each parameter in one step with a gradient of 1 everywhere."""
    before = [p.detach().clone() for p in all_of(groups)]
    for p in all_of(groups):
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [(p.detach() - old) for p, old in zip(all_of(groups), before, strict=True)]


def test_sgd_step_by_hand():
    groups = parameters()
    weights = [p.detach().clone() for p in all_of(groups)]
    optimizer = sgd(groups, learning_rate=0.1, encoder_learning_rate=0.01, weight_decay=0.5, momentum=0.9)
    changes = one_step(optimizer, groups)
    rates = [0.01] * len(groups["encoder"]) + [0.1] * len(groups["rest"])
    for change, weight, rate in zip(changes, weights, rates, strict=True):
        decay = 0.5 * weight if weight.ndim > 1 else 0.0
        torch.testing.assert_close(change, -rate * (1 + decay) * torch.ones_like(weight))
    again = one_step(optimizer, groups)  # momentum: the new gradient plus 0.9 of the old one
    torch.testing.assert_close(again[-1], torch.tensor(-0.1 * 1.9))


def test_adamw_decays_apart_from_the_gradient_and_adam_within_it():
    for build, decayed in ((adamw, True), (adam, False)):
        groups = parameters()
        weight = groups["rest"][0].detach().clone()
        changes = one_step(build(groups, learning_rate=0.1, weight_decay=0.5), groups)
        # The first step of Adam has the length of the learning rate, whatever the size of the gradient.
        signs = torch.sign(torch.ones_like(weight) + (0 if decayed else 0.5 * weight))
        expected = -0.1 * signs - (0.1 * 0.5 * weight if decayed else 0)
        torch.testing.assert_close(changes[len(groups["encoder"])], expected, rtol=1e-4, atol=1e-5)


def test_options_of_each_optimizer_arrive():
    groups = parameters()
    assert adamw(groups, learning_rate=0.1, betas=[0.8, 0.9]).defaults["betas"] == (0.8, 0.9)
    assert adam(groups, learning_rate=0.1, betas=[0.8, 0.9]).defaults["betas"] == (0.8, 0.9)
    assert sgd(groups, learning_rate=0.1, nesterov=True).defaults["nesterov"] is True


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("name", ["learning_rate", "encoder_learning_rate", "weight_decay", "layer_decay"])
@pytest.mark.parametrize("value", [-0.1, "1e-3", float("nan")])
def test_bad_numbers_are_user_errors(build, name, value):
    with pytest.raises(UserError, match=rf"optimizer\.{name}={value!r} is not valid"):
        build(parameters(), **({"learning_rate": 0.1} | {name: value}))
