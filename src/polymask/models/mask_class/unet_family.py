"""Three U-Nets of MONAI that are trained from scratch, of like depth, width and number of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

from torch import nn

from polymask.errors import UserError, choose, number, whole_number
from polymask.models.mask_class.classifier import SegmentationClassifier
from polymask.models.pixels import IMAGENET
from polymask.structures.gives import gives

NORMS: dict[str, Any] = {"instance": ("instance", {"affine": True}), "batch": "batch"}
"""Normalisations as MONAI spells them."""


@gives("mask")
def build_unet(
    *,
    model: str,
    num_masks: int,
    num_classes: int,
    in_channels: int = 3,
    channels: Sequence[int] = (32, 64, 128, 256, 512),
    norm: str | None = None,
    dropout: float = 0.0,
    encoder_weights: None = None,
    pretrained: bool = True,
) -> SegmentationClassifier:
    """Build a U-Net with random weights.

    `unet` is the U-Net with max pooling and two convolutions per level (Ronneberger et al., "U-Net", MICCAI
    2015, as Falk et al., Nature Methods 16, 2019, have it). `attention_unet` weighs what its skip
    connections carry by gates (Oktay et al., "Attention U-Net: learning where to look for the pancreas", MIDL
    2018). `residual_dynunet` has strided residual blocks on the way down (Isensee et al., "nnU-Net", Nature
    Methods 18, 2021), here without deep supervision, so that all three have the same loss.

    None of them has an encoder that another network could lend its weights to, so to the optimizer the whole
    network is `rest`, and there is nothing to freeze. The pixels are normalised by ImageNet's statistics,
    as for every network without pretrained weights: where U-Nets are compared, the input is the same.

    Args:
        model: One of `NETWORKS`.
        num_masks: Channels of the mask logits: 1 for a binary mask, C for C classes of which 0 is the
            background.
        num_classes: Must be 0: a U-Net has no classification head.
        in_channels: Channels of the images.
        channels: Channels of each level, the finest first; each level has half the size of the one before.
        norm: One of `NORMS`; None for the network's own: instance, but batch in `attention_unet`, which has
            no other.
        dropout: Probability of dropping a value after each convolution inside the network, in [0, 1).
        encoder_weights: Must be None; there are no pretrained weights.
        pretrained: Of no effect, for the same reason.

    Raises:
        UserError: A value is not allowed, or MONAI is not installed.
    """
    choose("model.model", model, NETWORKS)
    _check_outputs(model, num_masks, num_classes)
    if encoder_weights is not None:
        raise UserError(
            f"model.encoder_weights={encoder_weights!r}: model.model={model} has no pretrained weights. "
            "Use null, or model=smp for a U-Net with a pretrained encoder."
        )
    _check_values(model, channels, norm, dropout)
    try:
        network = NETWORKS[model](list(channels), num_masks, in_channels, norm, float(dropout))
    except ImportError as error:
        raise UserError(
            f"model.model={model} needs MONAI, which cannot be imported ({error}): "
            "pip install polymask[unets]"
        ) from error
    stride = 2 ** (len(channels) - 1)
    mean, std = (list(islice(cycle(values), in_channels)) for values in IMAGENET)
    return SegmentationClassifier(
        encoder=nn.Identity(),
        decoder=network,
        segmentation_head=nn.Identity(),
        classification_head=None,
        normalization=(mean, std),
        stride=stride,
        min_size=2 * stride,  # instance normalisation of a single cell is undefined
    )


def _unet(
    channels: list[int], num_masks: int, in_channels: int, norm: str | None, dropout: float
) -> nn.Module:
    from monai.networks.nets.basic_unet import BasicUNet

    features = (*channels, channels[0])  # the last is the width after the last step up
    return BasicUNet(2, in_channels, num_masks, features, norm=NORMS[norm or "instance"], dropout=dropout)


def _attention_unet(
    channels: list[int], num_masks: int, in_channels: int, norm: str | None, dropout: float
) -> nn.Module:
    from monai.networks.nets.attentionunet import AttentionUnet

    strides = [2] * (len(channels) - 1)
    return AttentionUnet(2, in_channels, num_masks, channels=channels, strides=strides, dropout=dropout)


def _residual_dynunet(
    channels: list[int], num_masks: int, in_channels: int, norm: str | None, dropout: float
) -> nn.Module:
    from monai.networks.blocks.dynunet_block import UnetOutBlock
    from monai.networks.nets.dynunet import DynUNet

    steps = [2] * (len(channels) - 1)
    network = DynUNet(
        2,
        in_channels,
        num_masks,
        kernel_size=[3] * len(channels),
        strides=[1, *steps],
        upsample_kernel_size=steps,
        filters=channels,
        norm_name=NORMS[norm or "instance"],
        dropout=dropout,
        res_block=True,
    )
    # DynUNet holds each block under two names, so its weights would be stored, averaged and exchanged twice;
    # the skip layers hold them all once. And its own output block would apply the dropout to the logits.
    return nn.Sequential(network.skip_layers, UnetOutBlock(2, channels[0], num_masks))


NETWORKS: dict[str, Callable[[list[int], int, int, str | None, float], nn.Module]] = {
    "unet": _unet,
    "attention_unet": _attention_unet,
    "residual_dynunet": _residual_dynunet,
}
"""Builders of networks from channels per level, mask channels, image channels, normalisation and dropout."""


def _check_outputs(model: str, num_masks: int, num_classes: int) -> None:
    if num_classes:
        raise UserError(
            f"model.model={model} has no classification head, but {num_classes} classes are to be predicted: "
            "choose task=segmentation, or model=smp."
        )
    if num_masks < 1:
        raise UserError(f"model.num_masks={num_masks}: nothing to predict; choose task=segmentation.")


def _check_values(model: str, channels: Sequence[int], norm: str | None, dropout: float) -> None:
    """Raise UserError for options that no network, or not this one, can have."""
    least, most = (5, 5) if model == "unet" else (3, 8)
    if not isinstance(channels, Sequence) or not least <= len(channels) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise UserError(
            f"model.channels={channels!r} must list the channels of {wanted} levels for model.model={model}, "
            "such as [32, 64, 128, 256, 512]."
        )
    for width in channels:
        whole_number("model.channels", width, least=2)
    if norm is not None:
        choose(f"model.norm of {model}", norm, ["batch"] if model == "attention_unet" else NORMS)
    number("model.dropout", dropout, least=0, below=1)
