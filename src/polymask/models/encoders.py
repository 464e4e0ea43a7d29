"""Which encoders there are, and what timm's (`tu-`) encoders need in order to take images of any size."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import nn

from polymask.errors import UserError, choose, listed

TIMM = "tu-"
"""Prefix of the encoders that segmentation-models-pytorch takes from timm."""


_LIST_SMP = (
    "python -c 'import segmentation_models_pytorch as s; print(*s.encoders.get_encoder_names())', and tu- "
    "followed by the name of any timm model that returns feature maps"
)
_LIST_TIMM = "python -c 'import timm; print(*timm.list_models(pretrained=True))'"


def check_encoder_name(name: str) -> str:
    """Return `name` when it is an encoder of segmentation-models-pytorch or, after `tu-`, of timm.

    Raises:
        UserError: It is neither; the message names the nearest and how to list all.
    """
    name = str(name)  # a YAML file may say 5
    if name.startswith(TIMM):
        return _check_timm_name(name)
    return choose("model.encoder_name", name, smp.encoders.get_encoder_names(), how_to_list=_LIST_SMP)


def _check_timm_name(name: str) -> str:
    """Check the architecture of a `tu-` encoder and the tag after its dot, which names the weights."""
    architecture, _, tag = name.removeprefix(TIMM).partition(".")
    if not timm.is_model(architecture):
        models = [TIMM + model for model in timm.list_models()]
        choose("model.encoder_name", TIMM + architecture, models, how_to_list=_LIST_TIMM)
    tags = [model.partition(".")[2] for model in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        known = [TIMM + architecture, *(f"{TIMM}{architecture}.{known}" for known in tags)]
        raise UserError(
            f"model.encoder_name={name!r}: timm has no weights {tag!r} for it. {listed(name, known)}"
        )
    return name


@dataclass(frozen=True)
class EncoderTraits:
    """What polymask must know of an encoder before it builds one.

    Attributes:
        plain: All blocks work at one resolution: a vision transformer, which has no pyramid.
        patch_size: That resolution's stride; 0 in an encoder with a pyramid.
        has_tokens: There are tokens beside the patches, such as a class token.
        options: Arguments with which timm makes it take images of any size.
    """

    plain: bool = False
    patch_size: int = 0
    has_tokens: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def encoder_traits(name: str) -> EncoderTraits:
    """Look at an encoder, of which the name is checked, without memory for its weights."""
    if not name.startswith(TIMM):
        return EncoderTraits()
    with torch.device("meta"):
        skeleton = timm.create_model(name.removeprefix(TIMM), pretrained=False)
    strides = {level["reduction"] for level in getattr(skeleton, "feature_info", [])}
    if len(strides) != 1:
        return EncoderTraits(options=_any_size_options(skeleton))
    return EncoderTraits(
        plain=True,
        patch_size=strides.pop(),
        has_tokens=getattr(skeleton, "num_prefix_tokens", 0) > 0,
        options={**_any_size_options(skeleton), "num_classes": 0},
    )


def build_encoder(
    name: str, *, weights: str | bool | None, in_channels: int, depth: int | None = None
) -> Any:
    """Build an encoder alone, which takes images of any size.

    Args:
        name: Checked name.
        weights: What is to be downloaded: a name, True for `tu-` encoders, or None.
        in_channels: Channels of the images.
        depth: Stages, None for all (of a plain transformer: the last 4 of its blocks, evenly spread).
    """
    traits = encoder_traits(name)
    shared: dict[str, Any] = {"in_channels": in_channels, **traits.options}
    if traits.plain:
        return TimmViTEncoder(
            name=name.removeprefix(TIMM), depth=depth or 4, pretrained=weights is not None, **shared
        )
    return smp.encoders.get_encoder(name, depth=depth or 5, weights=weights, **shared)


def _any_size_options(skeleton: nn.Module) -> dict[str, Any]:
    """Return the arguments that make a timm model take images of sizes other than its training size.

    Plain transformers then interpolate their position embedding, Swin transformers build their attention
    masks anew; convolutional networks need nothing.
    """
    for option, value in (("dynamic_img_size", True), ("strict_img_size", False)):
        if any(option in inspect.signature(parent).parameters for parent in type(skeleton).__mro__[:-1]):
            return {option: value}
    return {}
