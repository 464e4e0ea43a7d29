"""A masked autoencoder of a few thousand weights, and the same network made of timm's parts."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from polymask.models.vit_mae import build_mae

NUMBERS = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "depth": 3, "num_heads": 2}
DECODER = {"decoder_hidden_size": 16, "decoder_depth": 2, "decoder_num_heads": 4}


def tiny_mae(*, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return build_mae(**{**NUMBERS, **DECODER, **options})


def timm_vit(**options: Any) -> VisionTransformer:
    """timm's vision transformer of the same numbers as the encoder."""
    numbers = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**{**numbers, **options})


def batch(size: int = 3, image_size: int = 32, num_patches: int = 16) -> tuple[Tensor, Tensor]:
    """Images (B, H, W, 3) uint8 and noise (B, N)."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (size, image_size, image_size, 3), dtype=torch.uint8, generator=generator)
    return images, torch.rand(size, num_patches, generator=generator)


class AuthorsMae(VisionTransformer):
    """With the names of facebookresearch/mae; random tables and tokens, so that all of them count."""

    def __init__(self) -> None:
        super().__init__(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=0)
        self.decoder_embed = nn.Linear(24, 16)
        self.mask_token = nn.Parameter(torch.randn(1, 1, 16))
        self.decoder_pos_embed = nn.Parameter(torch.randn(1, 17, 16))
        self.decoder_blocks = nn.ModuleList(Block(16, 4, qkv_bias=True) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(16, eps=1e-6)
        self.decoder_pred = nn.Linear(16, 192)
        for block in self.decoder_blocks:
            block.norm1.eps = block.norm2.eps = 1e-6
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, pixels: Tensor, noise: Tensor, num_seen: int) -> tuple[Tensor, Tensor]:
        """Predicted patches (B, N, D) and the mask (B, N), image by image."""
        patches, masks = [], []
        for image, own_noise in zip(pixels, noise, strict=True):
            seen = own_noise.argsort()[:num_seen]
            tokens = self.patch_embed(image[None]) + self.pos_embed[:, 1:]
            encoded = self.norm(
                self.blocks(torch.cat([self.cls_token + self.pos_embed[:, :1], tokens[:, seen]], 1))
            )
            small = self.decoder_embed(encoded)
            full = self.mask_token.repeat(1, len(own_noise), 1)
            full[:, seen] = small[:, 1:]
            full = torch.cat([small[:, :1], full], 1) + self.decoder_pos_embed
            for block in self.decoder_blocks:
                full = block(full)
            patches.append(self.decoder_pred(self.decoder_norm(full))[0, 1:])
            masks.append(torch.ones(len(own_noise)).index_fill(0, seen, 0))
        return torch.stack(patches), torch.stack(masks)
