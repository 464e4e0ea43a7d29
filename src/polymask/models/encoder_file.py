"""A trained vision transformer as a file that other networks start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from polymask.utils.files import write_atomically, write_text


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """What such a file holds.

    Attributes:
        weights: Under timm's names, with what they expect of the pixels, `pixel_mean` and `pixel_std` (3,).
        facts: What they are, as plain values: `architecture`, `image_size`, `patch_size`, …
    """

    weights: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def write(self, path: Path, description: Mapping[str, Any]) -> None:
        """Write the weights, and beside them a YAML file of the same name with all that is known of them.

        Args:
            path: Of the weights.
            description: Where they come from.
        """
        content = {name: value.detach().cpu() for name, value in self.weights.items()}
        write_atomically(path, partial(torch.save, content))
        write_text(path.with_suffix(".yaml"), yaml.safe_dump({**self.facts, **description}, sort_keys=False))


def encoder_file(encoder: nn.Module, mean: Tensor, std: Tensor) -> EncoderFile | None:
    """Return an encoder of segmentation-models-pytorch as such a file.

    Args:
        encoder: The encoder, or what holds it as `encoder`.
        mean: (3,) of pixels in [0, 1].
        std: (3,), likewise.

    Returns:
        None unless the encoder is a plain vision transformer of timm.
    """
    encoder = getattr(encoder, "encoder", encoder)
    if not isinstance(encoder, TimmViTEncoder) or not isinstance(encoder.model, VisionTransformer):
        return None
    vit: Any = encoder.model
    facts = {
        "architecture": encoder.name.partition(".")[0],
        "hidden_size": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.blocks[0].attn.num_heads,
        "image_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
    }
    return EncoderFile(weights={**vit.state_dict(), "pixel_mean": mean, "pixel_std": std}, facts=facts)
