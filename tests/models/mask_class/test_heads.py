from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polymask.errors import UserError
from polymask.models.mask_class.heads import ClassificationHead
from polymask.models.mask_class.pooling import POOLINGS, AttentionPooling, GeneralizedMeanPooling

CHANNELS = (3, 2, 4)


def identity_head(length: int, **options) -> ClassificationHead:
    """A head whose logits are the pooled vectors themselves."""
    head = ClassificationHead(channels=CHANNELS, num_classes=length, **options)
    with torch.no_grad():
        head.logits.weight.copy_(torch.eye(length))
        head.logits.bias.zero_()
    return head


def features(batch: int = 2, size: tuple[int, int] = (16, 24)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(size[0] >> level, size[1] >> level) for level in range(3)]
    return [
        torch.rand(batch, channels, *size, generator=generator)
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


def by_hand(pooling: str, values: np.ndarray) -> list[float]:
    """Pool one channel of one image."""
    return {
        "avg": lambda: [values.mean()],
        "max": lambda: [values.max()],
        "gem": lambda: [(sum(v**3 for v in values.flat) / values.size) ** (1 / 3)],
    }[pooling]()


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_pooling_matches_a_loop_over_images_and_channels(pooling):
    feature = features()[2]
    found = POOLINGS[pooling](4)(feature)
    for image in range(2):
        for channel in range(4):
            expected = by_hand(pooling, feature[image, channel].double().numpy())
            assert found[image, channel].item() == pytest.approx(expected[0], rel=1e-5)


def test_average_and_maximum_stand_one_after_the_other():
    found = POOLINGS["avgmax"](2)(torch.tensor([[[[1.0, 2.0, 6.0]], [[-1.0, -1.0, -4.0]]]]))
    assert found.tolist() == [[3.0, -2.0, 6.0, -1.0]]


def test_attention_weighs_positions_by_the_softmax_of_their_score():
    pooling = AttentionPooling(2)
    with torch.no_grad():
        pooling.score.weight.copy_(torch.tensor([[1.0, -0.5]]))
    values = np.array([[[0.0, 1.0], [2.0, -1.0]], [[3.0, 0.0], [1.0, 2.0]]])  # (C, H, W)
    weights = np.exp(values[0] - 0.5 * values[1])
    expected = (values * weights / weights.sum()).sum(axis=(1, 2))
    found = pooling(torch.tensor(values, dtype=torch.float32)[None])
    np.testing.assert_allclose(found[0].detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("p", [1.001, 30.0, 500.0])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 6e4])
def test_generalized_mean_stays_between_mean_and_maximum_without_overflow(p, scale):
    pooling = GeneralizedMeanPooling(4)
    with torch.no_grad():
        pooling.raw_p.fill_(p - 1 if p > 20 else math.log(math.expm1(p - 1)))
    feature = (features()[2] * scale).requires_grad_()
    found = pooling(feature)
    found.sum().backward()
    floor = feature.detach().clamp(min=1e-6)
    assert (found >= 0.999 * floor.mean(dim=(2, 3))).all()
    assert (found <= 1.001 * floor.amax(dim=(2, 3))).all()
    assert feature.grad.isfinite().all()
    assert pooling.raw_p.grad.isfinite()


def test_generalized_mean_has_the_gradient_of_its_formula():
    feature = features()[2].double().requires_grad_()
    pooling = GeneralizedMeanPooling(4).double()
    found = torch.autograd.grad(pooling(feature).pow(2).sum(), [feature])[0]
    plain = ((feature**3).mean(dim=(2, 3)) ** (1 / 3)).pow(2).sum()
    torch.testing.assert_close(found, torch.autograd.grad(plain, [feature])[0], rtol=1e-5, atol=1e-8)


def test_levels_are_pooled_in_the_order_given():
    maps = features()
    found = identity_head(6, levels=(-1, 1))(maps)
    expected = np.concatenate([maps[2].numpy().mean((2, 3)), maps[1].numpy().mean((2, 3))], axis=1)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("mask_attention", [False, True])
def test_every_pooling_gives_logits_and_trains_with_hidden_layers(pooling, mask_attention):
    head = ClassificationHead(
        channels=CHANNELS,
        num_classes=5,
        levels=(0, -1),
        pooling=pooling,
        mask_attention=mask_attention,
        hidden=(8, 6),
        dropout=0.1,
    )
    logits = head(features(), torch.rand(2, 1, 16, 24))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_mask_attention_is_the_weighted_mean():
    maps, mask = features(), torch.rand(2, 1, 16, 24)
    found = identity_head(8, mask_attention=True)(maps, mask).detach().numpy()
    feature = maps[2].numpy()  # (2, 4, 4, 6): blocks of 4 x 4 pixels
    weight = mask.numpy().reshape(2, 4, 4, 6, 4).mean(axis=(2, 4))
    for image in range(2):
        for channel in range(4):
            expected = np.average(feature[image, channel], weights=weight[image])
            assert found[image, 4 + channel] == pytest.approx(expected, rel=1e-5)


def test_the_classification_loss_does_not_reach_the_mask():
    maps, mask = features(), torch.rand(2, 1, 16, 24, requires_grad=True)
    maps[2].requires_grad_()
    logits = identity_head(8, mask_attention=True)(maps, mask)
    logits[:, 4:].sum().backward()
    assert mask.grad is None
    assert maps[2].grad.abs().sum() > 0


@pytest.mark.parametrize("probability", [0.0, 1e-30])
def test_an_empty_mask_gives_a_finite_vector_and_gradient(probability):
    maps = features()
    maps[2].requires_grad_()
    found = identity_head(8, mask_attention=True)(maps, torch.full((2, 1, 16, 24), probability))
    found.sum().backward()
    assert found[:, 4:].abs().max() < 1e-6
    assert maps[2].grad.isfinite().all()


def test_mask_attention_without_mask_is_refused():
    with pytest.raises(ValueError, match="mask_probability"):
        identity_head(8, mask_attention=True)(features())


def test_cells_of_padding_are_left_out():
    maps = features()
    maps[2][:, :, 3:] = 1e6
    maps[2][:, :, :, 5:] = -1e6
    found = identity_head(4)(maps, extent=(9 / 16, 17 / 24))  # 9 of 16 rows touch 3 of 4 cells
    expected = maps[2].numpy()[:, :, :3, :5].mean((2, 3))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["avg", "gem", "attention"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_pools_in_float32(pooling, dtype):
    maps = [feature.to(dtype) * 100 for feature in features(size=(512, 512))]
    head = identity_head(6, levels=(0,), pooling=pooling, mask_attention=True)
    mask = torch.rand(2, 1, 512, 512)
    with torch.autocast("cpu", dtype=dtype):
        found = head(maps, mask)
    exact = head.double()([feature.double() for feature in maps], mask.double())
    # The last linear layer runs in `dtype`, so only its rounding may remain.
    torch.testing.assert_close(found.double(), exact, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "mean"}, r"model\.head\.pooling='mean'.*avg, max, avgmax, gem, attention"),
        ({"levels": (3,)}, r"model\.head\.levels: 3 does not exist.*0 to 2, or -3 to -1"),
        ({"levels": (-4,)}, r"model\.head\.levels: -4 does not exist"),
        ({"levels": ()}, r"model\.head\.levels=\(\) must be a list"),
        ({"levels": -1}, r"model\.head\.levels=-1 must be a list"),
        ({"hidden": 64}, r"model\.head\.hidden=64 must be a list"),
        ({"dropout": 1.5}, r"model\.head\.dropout=1\.5 is not valid; give .* at least 0 and below 1"),
    ],
)
def test_wrong_options_name_key_and_remedy(options, message):
    with pytest.raises(UserError, match=message):
        ClassificationHead(channels=CHANNELS, num_classes=2, **options)


def test_a_level_without_channels_is_refused():
    with pytest.raises(UserError, match=r"levels: 1 is empty in this encoder; use some of \[0, 2\]"):
        ClassificationHead(channels=(3, 0, 8), num_classes=2, levels=(1,))
