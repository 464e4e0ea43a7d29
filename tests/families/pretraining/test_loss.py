"""The loss of masked autoencoders, against what its definition gives by hand and by transformers' code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask.families.pretraining import Loss


class Found(NamedTuple):
    patches: Tensor
    mask: Tensor


def example(seed: int = 0) -> tuple[Tensor, Found]:
    """Two images of four patches of 2 x 2 pixels; three patches are masked, other ones in each image."""
    generator = torch.Generator().manual_seed(seed)
    patches, predicted = torch.randn(2, 2, 4, 12, generator=generator)
    return patches, Found(predicted, torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0]]).float())


def test_only_masked_patches_count_and_images_do_not_mix():
    patches, found = example()
    loss = Loss()(patches, found)
    true, predicted = patches.numpy(), found.patches.numpy()
    expected = [
        np.mean((true[0, [0, 2, 3]] - predicted[0, [0, 2, 3]]) ** 2),
        np.mean((true[1, [0, 1, 2]] - predicted[1, [0, 1, 2]]) ** 2),
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    alone = [Loss()(patches[i : i + 1], Found(*(part[i : i + 1] for part in found))) for i in range(2)]
    assert torch.cat(alone).equal(loss)
    seen = found.mask == 0
    other = Found(found.patches.masked_fill(seen[..., None], 7.0), found.mask)
    assert Loss()(patches.masked_fill(seen[..., None], -7.0), other).equal(loss)


def test_normalised_patches_have_no_mean_and_no_contrast():
    patches, found = example()
    values = patches.numpy().astype(np.float64)
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, ddof=1, keepdims=True)
    target = (values - mean) / np.sqrt(variance + 1e-6)
    loss = Loss(norm_pixels=True)
    np.testing.assert_allclose(loss.target(patches), target, rtol=1e-5, atol=1e-6)
    errors = ((target - found.patches.numpy()) ** 2).mean(-1)
    expected = [errors[0, [0, 2, 3]].mean(), errors[1, [0, 1, 2]].mean()]
    np.testing.assert_allclose(loss(patches, found), expected, rtol=1e-5)
    assert torch.allclose(loss(3 * patches + 2, found), loss(patches, found), atol=1e-4)
    assert not torch.allclose(Loss()(3 * patches + 2, found), Loss()(patches, found), atol=1e-4)


@pytest.mark.parametrize("norm_pixels", [False, True])
def test_undoing_the_target_gives_the_patch(norm_pixels: bool):
    patches, found = example()
    loss = Loss(norm_pixels=norm_pixels)
    torch.testing.assert_close(loss.undo(loss.target(patches), patches), patches)
    assert torch.equal(loss.undo(found.patches, patches), found.patches) != norm_pixels
    flat = torch.ones(1, 1, 12)
    assert loss.undo(loss.target(flat), flat).allclose(flat)  # a patch of one colour has no contrast


def test_the_mean_colour_loses_the_variance_of_the_masked_patches():
    patches, found = example()
    colours = patches.numpy().reshape(2, 4, 4, 3)  # row, column, channel: the channel comes last
    expected = []
    for image, masked in zip(colours, ([0, 2, 3], [0, 1, 2]), strict=True):
        expected.append(image[masked].reshape(-1, 3).var(axis=0).mean())
    loss = Loss()
    np.testing.assert_allclose(loss.of_mean_image(patches, found.mask), expected, rtol=1e-5)
    mean = torch.from_numpy(np.stack([colours[0, [0, 2, 3]].mean((0, 1)), colours[1, :3].mean((0, 1))]))
    constant = Found(mean.repeat(1, 4)[:, None].expand(2, 4, 12), found.mask)
    torch.testing.assert_close(loss(patches, constant), loss.of_mean_image(patches, found.mask))


def test_half_precision_of_the_network_does_not_reach_the_loss():
    patches, found = example()
    half = Found(found.patches.bfloat16(), found.mask)
    assert Loss()(patches, half).dtype == torch.float32
    torch.testing.assert_close(Loss()(patches, half), Loss()(patches, found), rtol=0.02, atol=0.02)
