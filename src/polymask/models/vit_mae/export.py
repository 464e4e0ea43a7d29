"""The encoder of a masked autoencoder for other networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from polymask.models.encoder_file import EncoderFile
from polymask.models.vit_mae.builder import SIZES
from polymask.models.vit_mae.keys import timm_names
from polymask.models.vit_mae.network import MaskedAutoencoder


def timm_encoder(network: MaskedAutoencoder) -> dict[str, Tensor]:
    """Return copies of the encoder's weights under the names of timm's vision transformers.

    Returns:
        What `timm.create_model("vit_…", num_classes=0)` takes, and besides `pixel_mean` and `pixel_std`, (3,)
        of pixels in [0, 1], which polymask reads and timm does not know.
    """
    encoder = {key: value for key, value in network.state_dict().items() if key.startswith("vit.")}
    weights = timm_names(encoder) | {"pixel_mean": network.mean, "pixel_std": network.std}
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def encoder_file(network: MaskedAutoencoder, **facts: Any) -> EncoderFile:
    """Return the encoder as a file; `facts` are what else is known of its training, such as its targets."""
    width, depth, heads = _numbers(network)
    own = {
        "architecture": _architecture(width, depth, heads, network.patch_size),
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
        "image_size": network.image_size,
        "patch_size": network.patch_size,
        "mask_ratio": network.mask_ratio,
    }
    return EncoderFile(weights=timm_encoder(network), facts=own | facts)


def write_encoder(network: MaskedAutoencoder, path: Path, description: Mapping[str, Any]) -> None:
    """Write the encoder to `path`, and beside it a YAML file with what it is and where it comes from."""
    encoder_file(network).write(path, description)


def _numbers(network: MaskedAutoencoder) -> tuple[int, int, int]:
    """Return hidden size, layers and attention heads of the encoder."""
    config: Any = network.vit.config
    return config.hidden_size, config.num_hidden_layers, config.num_attention_heads


def _architecture(width: int, depth: int, heads: int, patch_size: int) -> str | None:
    """Return timm's name of a vision transformer, whatever its image size; None where it has no name."""
    for size, numbers in SIZES.items():
        name = f"vit_{size}_patch{patch_size}_224"
        if numbers == (width, depth, heads) and timm.is_model(name):
            return name
    return None
