"""The masked autoencoder (He et al., "Masked autoencoders are scalable vision learners", CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.models.pixels import IMAGENET
from polymask.models.vit_mae.keys import todays_name
from polymask.structures.pixels import normalized


class Reconstruction(NamedTuple):
    """What the network says of a batch of images of N patches.

    Attributes:
        patches: (B, N, P * P * 3) float32: the predicted pixels of each patch, by row, column and channel.
        mask: (B, N) float32: 1 where a patch was hidden, so that its prediction counts, 0 where it was seen.
    """

    patches: Tensor
    mask: Tensor


class MaskedAutoencoder(nn.Module):
    """Predicts the pixels of hidden patches from those of the others.

    The encoder sees the patches that are left, a decoder takes its tokens and a learned one for every hidden
    patch. Both are transformers' own modules, and the names of their weights are as transformers 5.24 spells
    them, also where another version is installed.

    Args:
        vit: `ViTMAEModel` of transformers.
        decoder: `ViTMAEDecoder` of transformers.
        image_size: Height and width of the images in pixels.
        patch_size: Height and width P of a patch.
        mask_ratio: Share of the patches that are hidden.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, vit: nn.Module, decoder: nn.Module, image_size: int, patch_size: int, mask_ratio: float
    ) -> None:
        super().__init__()
        self.vit, self.decoder = vit, decoder
        self.image_size, self.patch_size, self.mask_ratio = image_size, patch_size, mask_ratio
        # In the state dict: weights from a file may expect others, and whoever rebuilds the network lacks it.
        self.register_buffer("mean", torch.tensor(IMAGENET[0]))
        self.register_buffer("std", torch.tensor(IMAGENET[1]))
        self.register_state_dict_post_hook(_name_as_today)
        self.register_load_state_dict_pre_hook(_name_as_installed)

    @property
    def encoder(self) -> nn.Module:
        """Return the encoder: what is kept of the network after its training."""
        return self.vit

    @property
    def num_patches(self) -> int:
        """Return the number N of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    def normalize(self, images: Tensor) -> Tensor:
        """Return (B, 3, H, W) float32 normalised pixels of (B, H, W, 3) uint8 images."""
        return normalized(images, self.mean, self.std)

    def forward(self, pixels: Tensor, noise: Tensor) -> Reconstruction:
        """Hide patches and predict their pixels.

        Args:
            pixels: (B, 3, H, W), normalised.
            noise: (B, N) in [0, 1): of each image, the patches of the largest numbers are hidden.

        Raises:
            UserError: The images have another size than the network's.
        """
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            height, width = pixels.shape[-2:]
            raise UserError(
                f"model.image_size={self.image_size} does not fit images of {height} x {width} pixels: this "
                "network takes squares of one size; set model.image_size and data.image_size (or the size to "
                "which transforms crop) to the same number."
            )
        seen = self.vit(pixels, noise=noise)
        patches = self.decoder(seen.last_hidden_state, seen.ids_restore).logits
        return Reconstruction(patches.float(), seen.mask)

    def patchify(self, pixels: Tensor) -> Tensor:
        """Cut (B, 3, H, W) pixels into (B, N, P * P * 3) patches, row by row."""
        batch, side = len(pixels), self.patch_size
        grid = self.image_size // side
        patches = pixels.reshape(batch, 3, grid, side, grid, side)
        return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid**2, side**2 * 3)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Put (B, N, P * P * 3) patches together again to (B, 3, H, W) pixels."""
        batch, side = len(patches), self.patch_size
        grid = self.image_size // side
        pixels = patches.reshape(batch, grid, grid, side, side, 3).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(batch, 3, self.image_size, self.image_size)


def _name_as_today(
    module: nn.Module, weights: MutableMapping[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """Rename what a state dict holds of a network to the names of checkpoints."""
    own = [key for key in weights if key.startswith(prefix)]
    _rename(weights, {key: prefix + todays_name(key.removeprefix(prefix)) for key in own})


def _name_as_installed(
    module: nn.Module, weights: MutableMapping[str, Any], prefix: str, *unused: object
) -> None:
    """Rename what a state dict holds for a network to the names that the installed version has."""
    own = [name for name, _ in module.named_parameters()]
    _rename(weights, {prefix + todays_name(name): prefix + name for name in own})


def _rename(weights: MutableMapping[str, Any], names: Mapping[str, str]) -> None:
    """Rename keys in place, and keep their order."""
    if any(old != new for old, new in names.items()):
        items = list(weights.items())
        weights.clear()
        weights.update((names.get(key, key), value) for key, value in items)
