"""The network of slices beside the 2-D network of the same seed."""

from __future__ import annotations

import pytest
import torch
from detectors import assert_same, copies, train_one_step
from slice_networks import build, build_plain, disturb, stacks_of

from polymask.errors import UserError
from polymask.models.slices.early import EARLY
from polymask.models.slices.late import LATE
from polymask.models.slices.segmenter import windows

EXACT = {"rtol": 0, "atol": 0}
STARTING = [name for name in (*EARLY, *LATE) if name != "stack"]


def seeded(network, *arguments):
    torch.manual_seed(7)
    return network(*arguments)


def assert_all_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, **EXACT)


def in_chunks(plain, volume, size=4):
    """What the 2-D network finds in slices, given as many at a time."""
    return [
        found
        for start in range(0, len(volume), size)
        for found in plain.predict([image.expand(3, -1, -1) for image in volume[start : start + size]])
    ]


@pytest.mark.parametrize("name", STARTING)
def test_with_the_centre_it_is_the_2d_network_to_the_last_bit(name):
    # Sizes in training are drawn: all slices of a stack must have the same.
    plain, network = build_plain(min_size=[64, 80]), build(name, min_size=[64, 80])
    stacks, pictures, target = stacks_of()
    assert_same(seeded(network, stacks, target), seeded(plain, pictures, target), **EXACT)
    losses, found = network.evaluate(stacks, target)
    expected_losses, expected = plain.evaluate(pictures, target)
    assert_same(losses, expected_losses, **EXACT)
    assert_all_same(found, expected)
    assert_all_same(network.predict(stacks), plain.predict(pictures))
    volume = torch.rand(5, 64, 80)
    assert_all_same(network.predict_volume(iter(volume)), in_chunks(plain, volume))
    assert network.training
    assert all(len(objects["scores"]) for objects in expected)


@pytest.mark.parametrize("name", ["slice_mlp", "level_mlp"])
def test_with_one_slice_it_is_the_2d_network(name):
    plain, network = build_plain(), build(name, slices=1, fusion={"init": "mean"})
    stacks, pictures, target = stacks_of(1)
    assert_same(seeded(network, stacks, target), seeded(plain, pictures, target), **EXACT)
    volume = torch.rand(3, 64, 80)
    assert_all_same(network.predict_volume(volume, batch=2), in_chunks(plain, volume, 2))


@pytest.mark.parametrize("name", [name for name in STARTING if name != "centre"])
def test_one_step_moves_the_weights_of_the_neighbours(name):
    network = build(name, fusion={"intensity": True})
    before = copies(network.fusion)
    stacks, _, target = stacks_of()
    train_one_step(network, stacks, target)
    moved = {key for key, value in network.fusion.state_dict().items() if not torch.equal(value, before[key])}
    assert {"intensity.low", "intensity.log_width", "intensity.log_gamma"} <= moved
    if "attention" in name:  # all but the last step of it follow from the second step on
        train_one_step(network, stacks, target)
        after = network.fusion.state_dict()
        assert all(not torch.equal(after[key], value) for key, value in before.items())
        return
    assert {key for key in before if key.startswith("rule.")} <= moved
    for key, value in network.fusion.state_dict().items():
        if key.endswith("weight"):
            change = (value - before[key]).abs()
            dim = {"level_mlp": 0, "level_conv": 2}.get(name, 1)
            assert all(change.select(dim, place).max() > 0 for place in (0, 1, 2)), key


@pytest.mark.parametrize("name", ["window_mlp", "level_conv"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_volume_is_predicted_as_its_stacks(name, batch):
    network = build(name, slices=5)
    disturb(network)
    volume = torch.rand(4, 64, 80)
    places = [[min(max(z + step, 0), 3) for step in range(-2, 3)] for z in range(4)]
    expected = [
        found
        for start in range(0, 4, batch)
        for found in network.predict([volume[place] for place in places[start : start + batch]])
    ]
    found = list(network.predict_volume(volume, batch=batch))
    assert_all_same(found, expected)
    assert network.training
    turned = list(network.predict_volume(volume.flip(0), batch=batch))
    assert not torch.equal(turned[-1]["boxes"], found[0]["boxes"])


def test_late_fusion_sees_each_slice_once_and_asks_for_them_as_it_goes():
    network = build("level_mlp", slices=5)
    passed, asked = [], []
    network.detector.backbone.register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))

    def slices():
        for number in range(20):
            asked.append(number)
            yield torch.full((64, 64), number / 20)

    found = network.predict_volume(slices(), batch=2)
    next(found)
    assert len(asked) <= 2 * 2 + 5
    assert len(list(found)) == 19
    assert sum(passed) == 20
    assert not any(objects["boxes"].requires_grad for objects in network.predict_volume(slices()))


def test_windows_repeat_the_ends():
    assert list(windows("abcd", 3)) == [tuple("aab"), tuple("abc"), tuple("bcd"), tuple("cdd")]
    assert list(windows("ab", 5)) == [tuple("aaabb"), tuple("aabbb")]
    assert list(windows("a", 7)) == [tuple("aaaaaaa")]
    assert list(windows("ab", 1)) == [("a",), ("b",)]
    assert list(windows("", 3)) == []


def test_all_trained_parameters_are_in_one_of_two_groups():
    network = build("conv", embedding=True)
    listed = {*network.encoder_parameters(), *network.other_parameters()}
    assert listed == set(network.parameters())
    assert set(network.fusion.parameters()) <= set(network.other_parameters())


def test_losses_are_float32_under_autocast():
    network = build("level_attention")
    stacks, _, target = stacks_of(sizes=((64, 80), (64, 80)))
    expected, _ = network.evaluate(stacks, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = network.evaluate(stacks, target)
        sum(network(stacks, target).values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert_same(losses, expected, rtol=0.1, atol=0.02)


def test_reset_weights_returns_to_the_start():
    network = build("level_attention", seed=11, embedding=True)
    start = copies(network)
    disturb(network)
    with torch.no_grad():
        network.embedding.out.weight.fill_(1)
    state = torch.get_rng_state()
    network.reset_weights()
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(copies(network), start, **EXACT)
    assert_same(copies(build("level_attention", seed=11, embedding=True)), start, **EXACT)


def test_a_stack_of_another_number_is_refused():
    with pytest.raises(UserError, match=r"takes data\.slices=3 slices at once, but is given 5"):
        build("conv").predict([torch.rand(5, 64, 64)])
