from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from polymask.training.ema import WeightAverage


def make_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def move(module: nn.Module, step: int) -> None:
    """Change all weights and buffers in place, as a training step does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-12)


def test_small_decay_agrees_with_torch():
    module = make_module()
    # Below 2/11, so that the warm-up of the decay never shows.
    ours = WeightAverage(module, decay=0.15)
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.15), use_buffers=True)
    theirs.update_parameters(module)  # the first update only copies
    for step in range(10):
        move(module, step)
        ours.update()
        theirs.update_parameters(module)
    with ours.applied():
        found, expected = weights(module), weights(theirs.module)
    # Theirs adds up the number of batches in its own way.
    assert_same(*({k: v for k, v in part.items() if v.is_floating_point()} for part in (found, expected)))


def test_decay_grows_with_the_number_of_updates_up_to_its_limit():
    module = make_module()
    average = WeightAverage(module, decay=0.6)
    expected = weights(module)
    for n in range(1, 31):
        move(module, n)
        average.update()
        decay = min(0.6, (1 + n) / (10 + n))
        for name, live in module.state_dict().items():
            expected[name] = (
                decay * expected[name] + (1 - decay) * live if live.is_floating_point() else live.clone()
            )
    with average.applied():
        assert_same(weights(module), expected)


def test_own_weights_are_back_after_the_block_also_when_it_fails():
    module = make_module()
    average = WeightAverage(module, decay=0.9)
    move(module, 0)
    average.update()
    own, averaged = weights(module), copy.deepcopy(average.state_dict())

    def fail_inside() -> None:
        with average.applied():
            assert not torch.equal(module[0].weight, own["0.weight"])
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    for name, tensor in own.items():
        assert torch.equal(module.state_dict()[name], tensor)
    for name, value in average.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(averaged[name]))


def test_state_continues_exactly():
    module = make_module()
    average = WeightAverage(module, decay=0.9)
    for step in range(5):
        move(module, step)
        average.update()
    state = copy.deepcopy(average.state_dict())
    other = make_module()
    other.load_state_dict(module.state_dict())
    resumed = WeightAverage(other, decay=0.9)
    resumed.load_state_dict(state)
    for step in range(5, 8):
        move(module, step)
        move(other, step)
        average.update()
        resumed.update()
    found, expected = resumed.state_dict(), average.state_dict()
    assert found.keys() == expected.keys()
    assert found["num_updates"] == expected["num_updates"] == 8
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value))


def test_integer_buffers_are_left_out():
    average = WeightAverage(make_module(), decay=0.9)
    assert "1.num_batches_tracked" not in average.state_dict()
    assert {"1.running_mean", "0.weight", "2.bias"} <= average.state_dict().keys()


def test_optimizer_goes_on_with_the_live_weights_after_the_block():
    module = make_module()
    average = WeightAverage(module, decay=0.9)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    move(module, 0)
    average.update()
    with average.applied():
        module.eval()(torch.ones(1, 3, dtype=torch.double))
    before = module[2].bias.detach().clone()
    module[2].bias.sum().backward()
    optimizer.step()
    torch.testing.assert_close(module[2].bias.detach(), before - 0.1)
