"""Fusions by themselves: sizes, starts, and what they compute, against loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from polymask.errors import UserError
from polymask.models.slices.early import EARLY
from polymask.models.slices.fusion import build_fusion
from polymask.models.slices.initialization import shares
from polymask.models.slices.late import LATE

STARTING = [name for name in (*EARLY, *LATE) if name != "stack"]
TABLE = [
    ("centre", {}, 0, 0),
    ("conv", {}, 84, 138),
    ("conv", {"kernel": 1}, 12, 18),
    ("slice_mlp", {}, 12, 18),
    ("slice_mlp", {"outputs": 1}, 4, 6),
    ("slice_mlp", {"hidden": 16}, 12 + 115, 18 + 147),
    ("window_mlp", {"outputs": 1}, 256, 384),
    ("window_mlp", {"version": 1}, 768, 1_152),
    ("window_mlp", {"version": 2, "outputs": 1}, 16_384, 24_576),
    ("window_mlp", {"version": 2}, 49_152, 73_728),
    ("window_mlp", {"version": 2, "windows": 16, "outputs": 1}, 4_096, 6_144),
    ("window_mix", {}, 12_352, 20_544),
    ("window_mix", {"windows": 16}, 196_864, 327_936),
    ("pixel_attention", {}, 164, 166),
    ("level_mlp", {}, 20, 30),
    ("level_mlp", {"per_channel": True}, 5_120, 7_680),
    ("level_conv", {"kernel": 1}, 5 * 1_024, 5 * 1_536),
    ("level_conv", {}, 5 * 7_168, 5 * 11_776),
    ("level_conv", {"kernel": 1, "depthwise": False}, 5 * 196_864, 5 * 327_936),
    ("level_conv", {"depthwise": False}, 5 * 1_769_728, 5 * 2_949_376),
    ("level_attention", {}, 65_987, 65_989),
    ("level_attention", {"shared": False}, 5 * 65_987, 5 * 65_989),
]
"""Fusion, options, parameters for 3 and for 5 slices of 512 x 512 pixels and 256 channels."""


def fusion_of(name, slices=3, channels=4, **options):
    torch.manual_seed(0)
    return build_fusion({"name": name, **options}, slices=slices, channels=channels)


def disturbed(fusion):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return fusion


def fused(fusion, stack):
    """(3, H, W) of an early fusion; of a late one the finest map, the slices themselves being maps."""
    if not fusion.is_late:
        return fusion.pictures([stack])[0]
    return fusion.maps([{"0": image.expand(1, 4, -1, -1)} for image in stack])["0"][0]


@pytest.mark.parametrize(("name", "options", "of_three", "of_five"), TABLE)
def test_numbers_of_parameters(name, options, of_three, of_five):
    with torch.device("meta"):
        for slices, expected in ((3, of_three), (5, of_five)):
            fusion = fusion_of(name, slices, 256, **options)
            assert sum(parameter.numel() for parameter in fusion.parameters()) == expected


@pytest.mark.parametrize("name", [*EARLY, *LATE])
def test_all_take_the_layout_that_a_trainer_gives_to_networks(name):
    fusion, maps = disturbed(fusion_of(name)), maps_of(3)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        fusion.to(memory_format=layout)
        results += [fusion.maps(maps)["1"] if fusion.is_late else fusion.pictures([maps[0]["0"][0, :3]])[0]]
    torch.testing.assert_close(*results)


def test_intensity_adds_three_parameters():
    assert len(list(fusion_of("centre", intensity=True).parameters())) == 3


def test_shares_of_the_starts():
    assert shares("centre", 5) == [0, 0, 1, 0, 0]
    assert shares("zero", 3) == [0, 0, 0]
    assert shares("mean", 5) == pytest.approx([0.2] * 5)
    assert shares("gaussian", 3) == pytest.approx([0.274, 0.452, 0.274], abs=5e-4)
    assert shares("gaussian", 3, 5.0) == pytest.approx([0.331, 0.338, 0.331], abs=5e-4)
    assert shares("gaussian", 5, 5.0) == pytest.approx([0.192, 0.204, 0.208, 0.204, 0.192], abs=5e-4)
    assert all(shares(init, 1) == [1.0] for init in ("centre", "mean", "gaussian"))


@pytest.mark.parametrize("slices", [1, 3, 7])
@pytest.mark.parametrize("name", STARTING)
def test_the_centre_is_the_slice_itself_to_the_last_bit(name, slices):
    stack = torch.rand(slices, 19, 21, generator=torch.Generator().manual_seed(0))
    stack[:, 0, 0], stack[:, 1, 1] = 0.0, 1.0
    fusion = fusion_of(name, slices, intensity=True)
    result = fused(fusion, stack)
    assert torch.equal(result, stack[slices // 2].expand_as(result))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = fused(fusion, stack)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, result)


LEARNING = [name for name in STARTING if name not in ("centre", "level_attention")]  # with other starts
OTHER_STARTS = [(name, init) for name in LEARNING for init in ("mean", "gaussian", "zero")]
OTHER_STARTS.remove(("pixel_attention", "zero"))


@pytest.mark.parametrize(("name", "init"), OTHER_STARTS)
def test_other_starts_are_weighted_means(name, init):
    stack = torch.rand(5, 16, 16)
    result = fused(fusion_of(name, 5, init=init), stack)
    expected = sum(share * image for share, image in zip(shares(init, 5), stack, strict=True))
    torch.testing.assert_close(result, (expected + torch.zeros(16, 16)).expand_as(result))


def test_stack_takes_the_slices_for_channels():
    stack = torch.rand(3, 8, 9)
    assert torch.equal(fused(fusion_of("stack"), stack), stack)


def test_convolution_is_that_of_its_weights():
    fusion, stack = disturbed(fusion_of("conv", kernel=5)), torch.rand(3, 12, 13)
    rule = fusion.rule
    expected = F.conv2d(stack[None], rule.weight, rule.bias, padding=2)[0]
    torch.testing.assert_close(fused(fusion, stack), expected)


def test_slice_mlp_is_two_layers_at_every_pixel():
    fusion, stack = disturbed(fusion_of("slice_mlp", hidden=4)), torch.rand(3, 5, 6)
    first, last, rule = fusion.rule.hidden[0], fusion.rule.hidden[2], fusion.rule
    x = stack[:, 2, 4]
    hidden = F.gelu(first.weight[:, :, 0, 0] @ x + first.bias)
    expected = rule.weight @ x + rule.bias + last.weight[:, :, 0, 0] @ hidden + last.bias
    torch.testing.assert_close(fused(fusion, stack)[:, 2, 4], expected)


@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({"windows": 4}, lambda row, column: (row * 4 // 32, column * 4 // 48)),
        (
            {"version": 2, "windows": 4, "reference_size": [32, 48]},
            lambda row, column: (row // 4, column // 4),
        ),
        # An image of half the size has as many windows, of half the size.
        (
            {"version": 2, "windows": 4, "reference_size": [64, 96]},
            lambda row, column: (row // 2, column // 2),
        ),
    ],
)
def test_every_window_has_weights_of_its_own(options, window):
    fusion, stack = disturbed(fusion_of("window_mlp", **options)), torch.rand(3, 32, 48)
    rule, result = fusion.rule, fused(fusion, stack)
    for row, column in ((0, 0), (7, 47), (8, 11), (31, 12), (16, 24), (30, 3)):
        y, x = window(row, column)
        expected = rule.weight[:, :, y, x] @ stack[:, row, column] + rule.bias[:, y, x]
        torch.testing.assert_close(result[:, row, column], expected)


def test_window_mix_is_one_layer_for_all_windows():
    fusion, stack = disturbed(fusion_of("window_mix", windows=4)), torch.rand(3, 8, 10)
    result = fused(fusion, stack)
    padded = F.pad(stack[None], (0, 2, 0, 0), mode="replicate")[0]
    rule = fusion.rule
    for top, left in ((0, 0), (4, 4), (4, 8)):
        pixels = padded[:, top : top + 4, left : left + 4].reshape(-1)
        expected = (rule.weight.flatten(1) @ pixels + rule.bias).view(4, 4)
        found = result[0, top : top + 4, left : left + 4]
        torch.testing.assert_close(found, expected[:, : found.shape[1]])
    assert torch.equal(result[0], result[2])


def test_attention_of_pixels_weighs_the_slices():
    fusion, stack = disturbed(fusion_of("pixel_attention")), torch.rand(3, 9, 9)
    rule = fusion.rule
    query, key = rule.query(stack[1][None, None])[0], rule.key(stack[:, None])
    score = torch.stack(
        [(query * one).sum(0) / math.sqrt(8) + t for one, t in zip(key, rule.offset, strict=True)]
    )
    attended = (score.softmax(0) * stack).sum(0)
    expected = stack[1] + rule.gate * (attended - stack[1])
    torch.testing.assert_close(fused(fusion, stack)[0], expected)


def maps_of(slices, channels=4):
    generator = torch.Generator().manual_seed(2)
    sizes = {"0": 16, "1": 8, "2": 4, "3": 2, "pool": 1}
    return [
        {name: torch.rand(2, channels, side, side, generator=generator) for name, side in sizes.items()}
        for _ in range(slices)
    ]


@pytest.mark.parametrize("depthwise", [True, False])
def test_level_conv_is_a_convolution_of_three_dimensions(depthwise):
    fusion, maps = disturbed(fusion_of("level_conv", 5, depthwise=depthwise)), maps_of(5)
    result = fusion.maps(maps)
    for level, name in zip(fusion.rule.levels, maps[0], strict=True):
        volume = torch.stack([one[name] for one in maps], dim=2)  # (B, C, n, H, W)
        groups = 4 if depthwise else 1
        weight = level.weight.unflatten(1, (-1, 5))  # (C, 1 or C, n, k, k)
        expected = F.conv3d(volume, weight, level.bias, padding=(0, 1, 1), groups=groups)[:, :, 0]
        torch.testing.assert_close(result[name], expected)


@pytest.mark.parametrize("per_channel", [True, False])
def test_level_mlp_weighs_the_maps(per_channel):
    fusion, maps = disturbed(fusion_of("level_mlp", per_channel=per_channel)), maps_of(3)
    result = fusion.maps(maps)
    assert list(result) == list(maps[0])
    level = fusion.rule.levels[2]
    assert level.weight.shape == (3, 4 if per_channel else 1)
    expected = sum(level.weight[s] * maps[s]["2"][1, :, 3, 2] for s in range(3))
    torch.testing.assert_close(result["2"][1, :, 3, 2], expected + level.bias)


def test_level_attention_adds_what_the_slices_say():
    fusion, maps = disturbed(fusion_of("level_attention", hidden=6)), maps_of(3)
    (level,) = fusion.rule.levels
    tokens = torch.stack([one["1"][0, :, 5, 6] for one in maps])
    score = level.key(tokens) @ level.query(tokens[1]) / math.sqrt(6) + level.offset
    expected = tokens[1] + level.out(score.softmax(0) @ level.value(tokens))
    torch.testing.assert_close(fusion.maps(maps)["1"][0, :, 5, 6], expected)


@pytest.mark.parametrize("name", [name for name in (*EARLY, *LATE) if name != "centre"])
def test_the_order_of_slices_matters_once_weights_differ(name):
    fusion, stack = disturbed(fusion_of(name)), torch.rand(3, 16, 16)
    assert not torch.allclose(fused(fusion, stack), fused(fusion, stack[[2, 1, 0]]))


def test_intensity_is_window_and_gamma():
    fusion, stack = fusion_of("centre", intensity=True), torch.rand(3, 8, 8)
    with torch.no_grad():
        fusion.intensity.low.fill_(0.2)
        fusion.intensity.log_width.fill_(math.log(0.5))
        fusion.intensity.log_gamma.fill_(math.log(2.5))
    expected = ((stack[1] - 0.2) / 0.5).clamp(0, 1) ** 2.5
    torch.testing.assert_close(fused(fusion, stack)[0], expected)


def test_gradients_of_the_intensity_are_finite_where_the_slice_is_black():
    fusion = fusion_of("centre", intensity=True)
    with torch.no_grad():
        fusion.intensity.log_gamma.fill_(-1.0)
    stack = torch.zeros(3, 4, 4)
    stack[:, 0] = 0.5
    fused(fusion, stack).sum().backward()
    assert all(parameter.grad.isfinite() and parameter.grad != 0 for parameter in fusion.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "konv"},
            r"model\.fusion\.name='konv' is unknown\. Did you mean 'conv'\? Allowed: centre, ",
        ),
        (
            {"name": "conv", "hidden": 4},
            r"fusion\.hidden=4 is not an option of .*=conv, which has init, sigma, k",
        ),
        (
            {"name": "centre", "init": "mean"},
            r"fusion\.init='mean' is not an option of .*=centre, which has inten",
        ),
        ({"name": "level_mlp", "channels": 3}, r"fusion\.channels=3 is not an option of .*=level_mlp"),
        ({"name": "conv", "shared": True}, r"fusion\.shared=True is not an option of .*=conv"),
        ({"name": "conv", "kernel": 4}, r"fusion\.kernel=4 is not valid; give an odd number"),
        ({"name": "conv", "outputs": 2}, r"fusion\.outputs=2 is not valid; give 1 or 3"),
        ({"name": "conv", "init": "center"}, r"fusion\.init='center' is unknown\. Did you mean 'centre'"),
        ({"name": "conv", "sigma": 2}, r"fusion\.sigma=2 is of no use to model\.fusion\.init=centre"),
        (
            {"name": "conv", "init": "gaussian", "sigma": 0},
            r"fusion\.sigma=0 is not valid; give a number above 0",
        ),
        ({"name": "conv", "intensity": "yes"}, r"fusion\.intensity='yes' is not valid; give false or true"),
        ({"name": "window_mlp", "version": 3}, r"fusion\.version=3 is not valid; give 1 or 2"),
        ({"name": "window_mlp", "version": True}, r"fusion\.version=True is not valid"),
        ({"name": "window_mlp", "windows": 0}, r"fusion\.windows=0 is not valid"),
        (
            {"name": "window_mlp", "reference_size": [9, 9]},
            r"reference_size=\[9, 9\] is of no use to .*version=1",
        ),
        (
            {"name": "window_mlp", "version": 2, "reference_size": 512},
            r"reference_size=512 is not valid; give \[h",
        ),
        ({"name": "slice_mlp", "hidden": 0}, r"fusion\.hidden=0 is not valid"),
        (
            {"name": "level_attention", "init": "mean"},
            r"fusion\.init='mean' is unknown\. .*Allowed: centre\.",
        ),
        ({"name": "pixel_attention", "init": "zero"}, r"fusion\.init='zero' is unknown\. .*mean, gaussian\."),
    ],
)
def test_what_is_not_allowed_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build_fusion(options, slices=3, channels=4)
    assert "\n" not in str(caught.value)


def test_stack_of_other_than_three_slices_is_refused():
    with pytest.raises(UserError, match=r"stack takes 3 slices, .* data\.slices=5; give data\.slices=3"):
        fusion_of("stack", 5)
