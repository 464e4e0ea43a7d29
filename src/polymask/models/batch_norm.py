"""What to do with batch normalisation where batches are too small for it."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_GROUPS = 32


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch normalisation layers of a module by name, timm's with an activation included."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}


def to_group_norm(module: nn.Module) -> None:
    """Replace every batch normalisation in `module` by group normalisation (Wu & He, ECCV 2018).

    It normalises each image by itself, so that the size of the batch does not matter. There are 32 groups, or
    as many as the channels can be divided into. The scale and shift that the layer starts with are kept.
    """
    for name, old in batch_norms(module).items():
        parent, _, child = name.rpartition(".")
        group = nn.GroupNorm(math.gcd(_GROUPS, old.num_features), old.num_features, eps=old.eps)
        with torch.no_grad():
            group.weight.copy_(old.weight)
            group.bias.copy_(old.bias)
        # timm's layers hold what follows the normalisation.
        followers = [getattr(old, part) for part in ("drop", "act") if hasattr(old, part)]
        setattr(module.get_submodule(parent), child, nn.Sequential(group, *followers) if followers else group)


@torch.no_grad()
def absorb_missing_epsilon(module: nn.Module) -> None:
    """Scale the layers so that they compute with their epsilon what the loaded weights did with none.

    torchvision's first Mask R-CNN was trained with variances to which nothing is added. As part of the
    weights, rather than as an epsilon of 0, this lies in the state dict, whatever rebuilds the network.
    """
    for layer in batch_norms(module).values():
        variance = cast(Tensor, layer.running_var)
        ratio = ((variance + layer.eps) / variance).sqrt()
        layer.weight.mul_(torch.where(variance > 0, ratio, torch.ones_like(ratio)))


@torch.no_grad()
def set_statistics(module: nn.Module, *, size: int = 128) -> None:
    """Give an untrained encoder, whose statistics are to stay fixed, statistics that normalise.

    Mean 0 and variance 1, which new layers have, would let the activations grow or fade from block to block.
    They are measured instead, as in data-dependent initialisation (Krähenbühl et al., ICLR 2016), on random
    images that are rough at all scales alike, as photographs are. The global random generator is left alone.

    Args:
        module: Takes (B, 3, H, W) normalised images.
        size: Height and width of the random images in pixels.
    """
    layers = batch_norms(module).values()
    generator = torch.Generator().manual_seed(0)
    scales = [size >> halvings for halvings in range(6)]
    octaves = [torch.randn(8, 3, scale, scale, generator=generator) for scale in scales]
    images = torch.stack([F.interpolate(octave, size=(size, size), mode="bilinear") for octave in octaves])
    momenta = [layer.momentum for layer in layers]
    module.eval()
    for layer in layers:
        layer.weight.fill_(1.0)  # at 0, where some residual branches start, a fixed scale would stay
        layer.train()
        layer.momentum = 1.0  # the statistics of this batch, and nothing of those before
    module(images.mean(dim=0) * math.sqrt(len(scales)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval()
        layer.momentum = momentum
