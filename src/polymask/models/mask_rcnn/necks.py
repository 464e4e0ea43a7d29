"""Necks: from a plain vision transformer, whose maps all have stride 16, to a pyramid of strides 4 to 64."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from polymask.errors import UserError, choose
from polymask.models.encoders import EncoderTraits

_STRIDE = 16
_NUM_MAPS = 4


class Taps(nn.Module):
    """Brings the outputs of four blocks to strides 4, 8, 16 and 32 (as in BEiT; Bao et al., ICLR 2022).

    Args:
        width: Channels of the maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = [width] * _NUM_MAPS
        self.steps = _steps(width, width, width)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return (B, width, H / stride, W / stride) maps of four (B, width, H / 16, W / 16), finest first."""
        return [step(level) for step, level in zip(self.steps, maps, strict=True)]


class Simple(nn.Module):
    """Brings the output of the last block to strides 4, 8, 16 and 32 (ViTDet; Li et al., ECCV 2022).

    Args:
        width: Channels of the map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.out_channels = [quarter, half, width, width]
        self.steps = _steps(width, half, quarter)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return (B, C, H / stride, W / stride) maps of the last of some (B, width, H / 16, W / 16)."""
        return [step(maps[-1]) for step in self.steps]


class SeparateLevels(nn.Module):
    """ViTDet's counterpart to torchvision's pyramid: two convolutions on each map, and no way down.

    Args:
        in_channels: Channels of the maps.
        out_channels: Channels of the pyramid.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                # Without a bias: the normalisation that follows has one.
                nn.Conv2d(channels, out_channels, 1, bias=False),
                nn.GroupNorm(1, out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                nn.GroupNorm(1, out_channels),
            )
            for channels in in_channels
        )
        self.coarsest = LastLevelMaxPool()

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the maps with `out_channels`, under their names, and `pool` of half the size of the last."""
        found = [level(given) for level, given in zip(self.levels, maps.values(), strict=True)]
        found, names = self.coarsest(found, list(maps.values()), list(maps))
        return OrderedDict(zip(names, found, strict=True))


def _taps(width: int, channels: int) -> tuple[nn.Module, nn.Module]:
    neck = Taps(width)
    return neck, FeaturePyramidNetwork(neck.out_channels, channels, extra_blocks=LastLevelMaxPool())


def _simple(width: int, channels: int) -> tuple[nn.Module, nn.Module]:
    neck = Simple(width)
    return neck, SeparateLevels(neck.out_channels, channels)


NECKS: dict[str, Callable[[int, int], tuple[nn.Module, nn.Module]]] = {"taps": _taps, "simple": _simple}
"""From the channels of encoder and pyramid to what rescales the maps and what makes the pyramid of them."""


def choose_neck(
    backbone: str, traits: EncoderTraits, neck: str | None, taps: Sequence[int] | None
) -> tuple[str | None, list[int] | None]:
    """Return the neck that an encoder gets, and the blocks, from 1, that it takes; None for no choice.

    Args:
        backbone: Name of the encoder, for messages.
        traits: What is known of it.
        neck: The user's choice: one of `NECKS`; None for `taps`, or for none where the encoder has a pyramid.
        taps: The user's choice of four blocks; None for evenly spread ones, the last among them.

    Raises:
        UserError: The choice is none, or does not fit the encoder.
    """
    if neck is not None:
        choose("model.neck", neck, [*NECKS, "null"])
    if not traits.plain:
        for key, value in (("neck", neck), ("taps", taps)):
            if value is not None:
                raise UserError(
                    f"model.{key}={value} is for plain vision transformers; with model.backbone={backbone!r} "
                    f"use model.{key}=null."
                )
        return None, None
    _check_patches(backbone, traits)
    if neck == "simple":
        if taps is not None:
            raise UserError(
                f"model.taps={taps} is for model.neck=taps; model.neck=simple takes the last block."
            )
        return neck, None
    return "taps", _blocks(backbone, traits.num_blocks, taps)


def _check_patches(backbone: str, traits: EncoderTraits) -> None:
    """Raise UserError for transformers of other strides, and for those of one image size."""
    if traits.patch_size != _STRIDE:
        raise UserError(
            f"model.backbone={backbone!r} has patches of {traits.patch_size} pixels; a neck needs patches of "
            f"{_STRIDE}: use one such as vit_small_patch16_224."
        )
    if "dynamic_img_size" not in traits.options:
        raise UserError(
            f"model.backbone={backbone!r} is no transformer whose position table timm resamples for images "
            "of other sizes: use one such as vit_small_patch16_224."
        )


def _blocks(backbone: str, depth: int, taps: Any) -> list[int]:
    """Return the four blocks, counted from 1."""
    spread = [round(depth * part / _NUM_MAPS) for part in range(1, _NUM_MAPS + 1)]
    if taps is None:
        if depth % _NUM_MAPS:
            raise UserError(
                f"model.backbone={backbone!r} has {depth} blocks, which do not divide by {_NUM_MAPS}: choose "
                f"four, such as model.taps={spread}, or model.neck=simple."
            )
        return spread
    is_list = isinstance(taps, Sequence) and not isinstance(taps, str)
    blocks = [block for block in taps if type(block) is int and 1 <= block <= depth] if is_list else []
    if not is_list or len(taps) != _NUM_MAPS or blocks != sorted(set(blocks)) or len(blocks) != len(taps):
        raise UserError(
            f"model.taps={taps} is not valid; give four increasing numbers of blocks from 1 to {depth}, such "
            f"as {spread}."
        )
    return blocks


def _steps(width: int, half: int, quarter: int) -> nn.ModuleList:
    """Return what makes strides 4, 8, 16 and 32 of stride 16; the finest has `quarter` channels."""
    # The norm is over all channels of one image, so that the size of the batch does not matter.
    finest = (_doubled(width, half), nn.GroupNorm(1, half), nn.GELU(), _doubled(half, quarter))
    return nn.ModuleList([nn.Sequential(*finest), _doubled(width, half), nn.Identity(), nn.MaxPool2d(2)])


def _doubled(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Return a convolution that doubles height and width."""
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
