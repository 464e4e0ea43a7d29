"""The weights that a masked autoencoder starts from.

Built from a configuration alone, transformers leaves the tables of positions at zero, and since both are
fixed they stay so: all hidden patches then get the same prediction, and the encoder learns nothing of places.
So all weights are set here, as the authors of the method do it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

_TEMPERATURE = 10_000.0
_TOKEN_STD = 0.02


def position_table(grid: int, width: int) -> Tensor:
    """Return the fixed sine-cosine embedding of a square grid of patches.

    With omega_k = 10000^(-k / (width / 4)), the row of the patch in row y and column x is
    [sin(x omega), cos(x omega), sin(y omega), cos(y omega)], columns first as in the published weights; that
    of the class token, which comes first, is zero.

    Args:
        grid: Patches per side.
        width: Values per patch; 4 divides it.

    Returns:
        (1, grid * grid + 1, width) float32.
    """
    quarter = width // 4
    omega = _TEMPERATURE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64).outer(omega)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    table = torch.cat([waves.repeat(grid, 1), waves.repeat_interleave(grid, dim=0)], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=table.dtype), table])[None].float()


@torch.no_grad()
def initialize(vit: nn.Module, decoder: nn.Module, *, grid: int) -> None:
    """Set all weights of both halves of a network anew; draws from torch's global generator.

    Args:
        vit: `ViTMAEModel` of transformers.
        decoder: `ViTMAEDecoder` of transformers.
        grid: Patches per side.
    """
    for layer in (*vit.modules(), *decoder.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))  # patches: as a linear layer
            nn.init.zeros_(cast("Tensor", layer.bias))
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
    tokens = (vit.get_parameter("embeddings.cls_token"), decoder.get_parameter("mask_token"))
    tables = (vit.get_parameter("embeddings.position_embeddings"), decoder.get_parameter("decoder_pos_embed"))
    for token in tokens:
        nn.init.normal_(token, std=_TOKEN_STD)
    for table in tables:
        table.copy_(position_table(grid, table.shape[-1]))
