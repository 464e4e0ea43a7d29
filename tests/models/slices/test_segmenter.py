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


VOLUME = torch.rand(5, 64, 80, generator=torch.Generator().manual_seed(4))


def all_of(network, images, target, found_in_volume):
    """Losses of training and evaluation, and detections in images and in a volume."""
    evaluated = network.evaluate(images, target)
    return [
        seeded(network, images, target),
        evaluated[0],
        *evaluated[1],
        *network.predict(images),
        *found_in_volume,
    ]


@pytest.fixture(scope="module")
def of_plain():
    # Sizes in training are drawn: all slices of a stack must have the same.
    plain = build_plain(min_size=[64, 80])
    _, pictures, target = stacks_of()
    return all_of(plain, pictures, target, in_chunks(plain, VOLUME))


@pytest.mark.parametrize("name", STARTING)
def test_with_the_centre_it_is_the_2d_network_to_the_last_bit(name, of_plain):
    network = build(name, min_size=[64, 80])
    stacks, _, target = stacks_of()
    assert_all_same(all_of(network, stacks, target, network.predict_volume(iter(VOLUME))), of_plain)
    assert network.training
    assert all(len(objects["scores"]) for objects in of_plain if "scores" in objects)


@pytest.mark.parametrize("name", ["slice_mlp", "level_mlp"])
def test_with_one_slice_it_is_the_2d_network(name):
    plain, network = build_plain(), build(name, slices=1, fusion={"init": "mean"})
    stacks, pictures, target = stacks_of(1)
    assert_same(seeded(network, stacks, target), seeded(plain, pictures, target), **EXACT)
    volume = torch.rand(3, 64, 80)
    assert_all_same(network.predict_volume(volume, batch=2), in_chunks(plain, volume, 2))


@pytest.mark.parametrize("name", ["conv", "slice_mlp", "window_mlp", "window_mix", "level_mlp", "level_conv"])
def test_one_step_moves_the_weights_of_the_neighbours(name):
    network = build(name, fusion={"intensity": True})
    before = copies(network.fusion)
    stacks, _, target = stacks_of()
    train_one_step(network, stacks, target)
    moved = {key for key, value in network.fusion.state_dict().items() if not torch.equal(value, before[key])}
    assert {"intensity.low", "intensity.log_width", "intensity.log_gamma"} <= moved
    key = "rule.levels.0.weight" if network.fusion.is_late else "rule.weight"  # deep maps may have no sample
    change = (network.fusion.state_dict()[key] - before[key]).abs()
    dim = {"level_mlp": 0}.get(name, 1)
    assert all(change.select(dim, place).max() > 0 for place in (0, 1, 2))


@pytest.mark.parametrize(("name", "gate"), [("pixel_attention", "gate"), ("level_attention", "out.")])
def test_attention_first_learns_whether_to_look_and_then_where(name, gate):
    network = build(name)
    stacks, _, target = stacks_of()
    sum(network(stacks, target).values()).backward()
    looked = {key for key, value in network.fusion.named_parameters() if value.grad.abs().max() > 0}
    assert looked
    assert all(gate in key for key in looked)
    with torch.no_grad():
        for key, value in network.fusion.named_parameters():
            value.add_(0.1 * (gate in key))
    sum(network(stacks, target).values()).backward()
    left = {key for key, value in network.fusion.named_parameters() if value.grad.abs().max() < 1e-9}
    assert all(key.endswith("key.bias") for key in left)  # the same for all slices, so without effect


@pytest.mark.parametrize(("name", "batch"), [("window_mlp", 3), ("level_conv", 1), ("level_conv", 3)])
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
    # A late fusion sees its neighbours in batches of other sizes, for which kernels may round otherwise.
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if network.fusion.is_late else EXACT
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, **tolerance)
    assert network.training
    turned = list(network.predict_volume(volume.flip(0), batch=batch))
    assert not torch.equal(turned[-1]["boxes"], found[0]["boxes"])


def test_late_fusion_sees_each_slice_once_and_asks_for_them_as_it_goes():
    network = build("level_mlp")
    passed, asked = [], []
    network.detector.backbone.register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))

    def slices():
        for number in range(8):
            asked.append(number)
            yield torch.full((64, 64), number / 8)

    found = network.predict_volume(slices(), batch=2)
    found_first = next(found)
    assert len(asked) <= 5
    assert len(list(found)) == 7
    assert sum(passed) == 8
    assert not found_first["boxes"].requires_grad


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
    with pytest.raises(UserError, match=r"model\.slices=3 does not fit stacks of 5 slices; .*data\.slices=3"):
        build("conv").predict([torch.rand(5, 64, 64)])
