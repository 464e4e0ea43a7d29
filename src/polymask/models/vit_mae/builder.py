"""A masked autoencoder from configuration values."""

from __future__ import annotations

from typing import Any

from torch import nn

from polymask.errors import UserError, choose, number, whole_number
from polymask.models.vit_mae.initialization import initialize
from polymask.models.vit_mae.loading import load_file
from polymask.models.vit_mae.network import MaskedAutoencoder
from polymask.structures.gives import gives

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Hidden size, layers and attention heads of the encoders that have a name."""

_EPSILON = 1e-6  # of normalisation, as the authors and timm have it; transformers' own default is 1e-12


@gives("reconstruction")
def build_mae(
    *,
    size: str = "base",
    image_size: int = 224,
    patch_size: int = 16,
    mask_ratio: float = 0.75,
    hidden_size: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    decoder_hidden_size: int = 512,
    decoder_depth: int = 8,
    decoder_num_heads: int = 16,
    weights: str | None = None,
    pretrained: bool = True,
) -> MaskedAutoencoder:
    """Build a masked autoencoder.

    Args:
        size: One of `SIZES`: numbers of the encoder where none are given.
        image_size: Height and width of the images in pixels.
        patch_size: Height and width of a patch in pixels.
        mask_ratio: Share of the patches that are hidden, in (0, 1).
        hidden_size: Width of the encoder.
        depth: Its layers.
        num_heads: Its attention heads.
        decoder_hidden_size: Width of the decoder.
        decoder_depth: Its layers.
        decoder_num_heads: Its attention heads.
        weights: Path of a file to start from: of transformers, of the authors of the method, or an encoder
            alone under timm's names, beside which the decoder starts anew. None for random weights.
        pretrained: False builds the network that `weights` mean without loading them, for a checkpoint's.

    Raises:
        UserError: A value is not allowed, weights do not exist or fit, or transformers is not installed.
    """
    choose("model.size", size, SIZES)
    given = zip((hidden_size, depth, num_heads), SIZES[size], strict=True)
    width, layers, heads = (named if value is None else value for value, named in given)
    _check_width("", width, heads)
    _check_width("decoder_", decoder_hidden_size, decoder_num_heads)
    grid = _checked_grid(image_size, patch_size, mask_ratio)
    vit, decoder = _parts(
        image_size=image_size,
        patch_size=patch_size,
        mask_ratio=mask_ratio,
        hidden_size=width,
        num_hidden_layers=whole_number("model.depth", layers, least=1),
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_hidden_size,
        decoder_num_hidden_layers=whole_number("model.decoder_depth", decoder_depth, least=1),
        decoder_num_attention_heads=decoder_num_heads,
        decoder_intermediate_size=4 * decoder_hidden_size,
        layer_norm_eps=_EPSILON,
    )
    initialize(vit, decoder, grid=grid)
    network = MaskedAutoencoder(
        vit=vit, decoder=decoder, image_size=image_size, patch_size=patch_size, mask_ratio=mask_ratio
    )
    if weights is not None and pretrained:
        load_file(network, weights)
    return network


def _parts(**values: Any) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder of transformers, which takes seconds to import.

    Raises:
        UserError: It is not installed.
    """
    try:
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
    except ImportError as error:
        raise UserError(
            f"model=vit_mae needs transformers, which cannot be imported ({error}): "
            "pip install 'polymask[ssl]'"
        ) from error
    whole = ViTMAEForPreTraining(ViTMAEConfig(**values))
    return whole.vit, whole.decoder


def _check_width(prefix: str, width: int, heads: int) -> None:
    """Raise UserError unless positions and attention heads share the width of encoder or decoder evenly."""
    key = f"model.{prefix}hidden_size"
    whole_number(key, width, least=4)
    whole_number(f"model.{prefix}num_heads", heads, least=1)
    if width % 4:
        raise UserError(
            f"{key}={width} is not valid; 4 must divide it, for sine and cosine of rows and columns."
        )
    if width % heads:
        raise UserError(f"{key}={width} is not valid; model.{prefix}num_heads={heads} must divide it.")


def _checked_grid(image_size: int, patch_size: int, mask_ratio: float) -> int:
    """Return the number of patches per side.

    Raises:
        UserError: The patches do not fill the image, or none would be hidden or seen.
    """
    whole_number("model.image_size", image_size, least=1)
    whole_number("model.patch_size", patch_size, least=1)
    grid, left = divmod(image_size, patch_size)
    if left or not grid:
        near = patch_size * max(1, grid + (2 * left >= patch_size))
        raise UserError(
            f"model.image_size={image_size} is not valid; model.patch_size={patch_size} must divide it, as "
            f"it does {near}."
        )
    number("model.mask_ratio", mask_ratio, above=0, below=1)
    num_seen = int(grid**2 * (1 - mask_ratio))
    if not 0 < num_seen < grid**2:
        raise UserError(
            f"model.mask_ratio={mask_ratio} is not valid; of {grid**2} patches it leaves {num_seen} to be "
            "seen: some must be seen and some hidden. Choose another ratio, larger images or smaller patches."
        )
    return grid
