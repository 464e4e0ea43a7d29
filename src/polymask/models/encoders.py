"""Which encoders there are, and what timm's (`tu-`) encoders need in order to take images of any size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.models import group_parameters
from torch import nn

from polymask.errors import UserError, choose, listed, number

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
        num_blocks: How many of these blocks there are; 0 in an encoder with a pyramid.
        has_tokens: There are tokens beside the patches, such as a class token.
        options: Arguments with which timm makes it take images of any size, and drop paths.
    """

    plain: bool = False
    patch_size: int = 0
    num_blocks: int = 0
    has_tokens: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def encoder_traits(name: str, *, drop_path: float = 0.0) -> EncoderTraits:
    """Look at an encoder, of which the name is checked, without memory for its weights.

    Args:
        name: The encoder.
        drop_path: Share of the images that skip a residual branch of the last block in training; the blocks
            before it have less, in proportion (stochastic depth, Huang et al., ECCV 2016).

    Raises:
        UserError: `drop_path` is no share, or the encoder knows no such thing.
    """
    number("model.drop_path", drop_path, least=0, below=1)
    if not name.startswith(TIMM):
        return EncoderTraits(options=_drop_path_options(None, drop_path, name))
    skeleton = _skeleton(name.removeprefix(TIMM))
    options = {**_any_size_options(skeleton), **_drop_path_options(skeleton, drop_path, name)}
    levels = getattr(skeleton, "feature_info", [])
    strides = {level["reduction"] for level in levels}
    if len(strides) != 1:
        return EncoderTraits(options=options)
    return EncoderTraits(
        plain=True,
        patch_size=strides.pop(),
        num_blocks=len(levels),
        has_tokens=getattr(skeleton, "num_prefix_tokens", 0) > 0,
        options={**options, "num_classes": 0},
    )


@cache  # a large one takes seconds even so, and is asked for more than once
def _skeleton(name: str) -> nn.Module:
    """Return a model of timm without memory for its weights, to be looked at."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def build_encoder(
    name: str,
    *,
    weights: str | bool | None,
    in_channels: int,
    depth: int | None = None,
    taps: Sequence[int] | None = None,
    drop_path: float = 0.0,
) -> Any:
    """Build an encoder alone, which takes images of any size.

    Args:
        name: Checked name.
        weights: What is to be downloaded: a name, True for `tu-` encoders, or None.
        in_channels: Channels of the images.
        depth: Stages, None for all (of a plain transformer: the last 4 of its blocks, evenly spread).
        taps: Instead of `depth`, the blocks of a plain transformer, counted from 1, that give the maps.
        drop_path: See `encoder_traits`.
    """
    traits = encoder_traits(name, drop_path=drop_path)
    shared: dict[str, Any] = {"in_channels": in_channels, **traits.options}
    if traits.plain:
        return TimmViTEncoder(
            name=name.removeprefix(TIMM),
            depth=len(taps) if taps else depth or 4,
            output_indices=[block - 1 for block in taps] if taps else None,
            pretrained=weights is not None,
            **shared,
        )
    return smp.encoders.get_encoder(name, depth=depth or 5, weights=weights, **shared)


def encoder_layers(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of a plain transformer layer by layer: its embeddings, then each of its blocks.

    timm counts the norm behind the last block to it, and what follows to none of them.

    Raises:
        UserError: The encoder is no plain transformer.
    """
    transformer = _plain_transformer(encoder)
    if transformer is None:
        raise UserError(
            "optimizer.layer_decay is for encoders that are plain vision transformers, such as "
            "vit_tiny_patch16_224; with this one use optimizer.layer_decay=null."
        )
    layer_of = group_parameters(transformer, transformer.group_matcher(coarse=False), reverse=True)
    layers: list[list[nn.Parameter]] = [[] for _ in range(len(transformer.feature_info) + 1)]
    for name, parameter in transformer.named_parameters():
        if layer_of[name] < len(layers):
            layers[layer_of[name]].append(parameter)
    return layers


def checkpoint_blocks_of(encoder: nn.Module, name: str) -> None:
    """Let a plain transformer keep only the inputs of its blocks in training, and compute the rest once more.

    That takes one more forward pass and a fraction of the memory (Chen et al., arXiv 1604.06174).

    Raises:
        UserError: The encoder is no plain transformer, or one that timm cannot do this with.
    """
    transformer = _plain_transformer(encoder)
    refusal = UserError(
        "model.checkpoint_blocks=true is for plain vision transformers, such as vit_tiny_patch16_224; with "
        f"model.encoder_name={name!r} use false."
    )
    if transformer is None:
        raise refusal
    try:
        transformer.set_grad_checkpointing(True)
    except AssertionError as error:  # how timm says that a model lacks it
        raise refusal from error


def _plain_transformer(encoder: nn.Module) -> Any:
    """Return timm's model inside of an encoder, None where it is no plain transformer."""
    return next((part.model for part in encoder.modules() if isinstance(part, TimmViTEncoder)), None)


def _any_size_options(skeleton: nn.Module) -> dict[str, Any]:
    """Return the arguments that make a timm model take images of sizes other than its training size.

    Plain transformers then interpolate their position embedding, Swin transformers build their attention
    masks anew; convolutional networks need nothing.
    """
    for option, value in (("dynamic_img_size", True), ("strict_img_size", False)):
        if _takes(skeleton, option):
            return {option: value}
    return {}


def _drop_path_options(skeleton: nn.Module | None, drop_path: float, name: str) -> dict[str, Any]:
    """Return the argument that makes a timm model drop paths."""
    if not drop_path:
        return {}
    if skeleton is None or not _takes(skeleton, "drop_path_rate"):
        raise UserError(
            f"model.drop_path={drop_path} is for encoders of timm with residual blocks, such as "
            f"vit_tiny_patch16_224; with model.encoder_name={name!r} use 0."
        )
    return {"drop_path_rate": drop_path}


def _takes(model: nn.Module, option: str) -> bool:
    """Return whether a model, or a class that it hands its arguments on to, has an argument."""
    return any(option in inspect.signature(parent).parameters for parent in type(model).__mro__[:-1])
