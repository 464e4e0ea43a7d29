"""The encoder-decoders of segmentation-models-pytorch, with a classification head beside the mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from polymask.errors import UserError, choose, nearest
from polymask.models.encoders import TIMM, check_encoder_name, checkpoint_blocks_of
from polymask.models.mask_class.classifier import SegmentationClassifier
from polymask.models.mask_class.decoders import (
    DECODERS,
    Parts,
    build_parts,
    decoder_options,
    image_sizes,
    misfit_is_user_error,
)
from polymask.models.mask_class.heads import ClassificationHead
from polymask.models.pixels import Normalization, expected_normalization
from polymask.models.weights import (
    check_weights_name,
    hub_access,
    is_file,
    load_encoder_weights,
    read_state_dict,
)
from polymask.structures.gives import gives
from polymask.structures.metadata import MetadataEncoding

_NO_OPTIONS = ("channels", "num_classes", "metadata_sizes")  # of a head: what else decides about it
TRIAL_SIZE = (65, 97)
"""Divisible by no stride, so that a network which takes it takes any size."""


@gives("mask", "label")
def build_smp(
    *,
    model: str,
    encoder_name: str,
    encoder_weights: str | None,
    num_masks: int,
    num_classes: int,
    in_channels: int = 3,
    freeze_backbone: bool = False,
    unfreeze_at_epoch: int | None = None,
    drop_path: float = 0.0,
    checkpoint_blocks: bool = False,
    head: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    metadata_statistics: Mapping[str, Sequence[Any]] | None = None,
    pretrained: bool = True,
    **options: Any,
) -> SegmentationClassifier:
    """Build a network and prove on a small image that its parts fit.

    Args:
        model: One of `DECODERS`; without masks it does not matter.
        encoder_name: An encoder of segmentation-models-pytorch, or `tu-` and the name of a timm model. `dpt`
            takes plain vision transformers, the other decoders take encoders with a pyramid.
        encoder_weights: None for random weights, a name such as `imagenet` to download (or take from the
            Hugging Face cache), or a path to a file, see `polymask.models.weights`.
        num_masks: Channels of the mask logits: 1 for a binary mask, C for C classes of which 0 is the
            background, 0 for no decoder.
        num_classes: Length of the class logits, 0 for no head.
        in_channels: Channels of the images.
        freeze_backbone: Do not train the encoder...
        unfreeze_at_epoch: ...before this epoch (counted from 0), None for never.
        drop_path: Stochastic depth of a `tu-` encoder, see `polymask.models.encoders.encoder_traits`.
        checkpoint_blocks: Let a plain transformer take less memory and more time in training.
        head: Options of `polymask.models.mask_class.heads.ClassificationHead`.
        metadata: Columns that the head takes, `number` or `category` each, see
            `polymask.structures.metadata`.
        metadata_statistics: What makes features of them.
        pretrained: False builds the same network with random weights, for those of a checkpoint.
        **options: Options of the decoder, such as `encoder_depth` and `decoder_channels`.

    Raises:
        UserError: A name, option or weights file that does not exist, or parts that do not fit.
    """
    if num_masks < 1 and num_classes < 1:
        raise UserError(f"model.num_masks={num_masks}, model.num_classes={num_classes}: nothing to predict.")
    decoder = choose("model.model", model, DECODERS) if num_masks else None
    metadata_sizes = _metadata_sizes(metadata, metadata_statistics, num_classes)
    check_encoder_name(encoder_name)
    _check_options(decoder, options)
    build = partial(
        build_parts,
        decoder=decoder,
        encoder_name=encoder_name,
        num_masks=num_masks,
        in_channels=in_channels,
        options=options,
        drop_path=drop_path,
    )
    parts, (mean, std) = _build_with_weights(
        build, encoder_name, (encoder_weights or None) if pretrained else None
    )
    encoder, mask_decoder, mask_head = parts
    if checkpoint_blocks:
        checkpoint_blocks_of(encoder, encoder_name)
    stride, min_size = image_sizes(decoder, encoder)
    network = SegmentationClassifier(
        encoder=encoder,
        decoder=mask_decoder,
        segmentation_head=mask_head,
        classification_head=_build_head(
            head or {}, encoder.out_channels, num_masks, num_classes, metadata_sizes
        ),
        normalization=(_per_channel(mean, in_channels), _per_channel(std, in_channels)),
        stride=stride,
        min_size=min_size,
        freeze_backbone=freeze_backbone,
        unfreeze_at_epoch=unfreeze_at_epoch,
    )
    with misfit_is_user_error(decoder, encoder_name, "does not take images of every size"):
        _try_out(network)
    network.start_epoch(0)
    return network


def _build_with_weights(
    build: Callable[..., Parts], encoder_name: str, weights: str | None
) -> tuple[Parts, Normalization]:
    """Build the parts, and return them with the normalisation that the encoder's weights expect."""
    if weights is None or is_file(weights):
        state_dict = read_state_dict(weights) if weights else {}
        parts = build(weights=None)
        if weights:
            load_encoder_weights(parts[0], state_dict, weights, name=encoder_name)
        return parts, expected_normalization(encoder_name, weights, state_dict)
    check_weights_name(encoder_name, weights)
    with hub_access(encoder_name, weights):
        parts = build(weights=True if encoder_name.startswith(TIMM) else weights)
        return parts, expected_normalization(encoder_name, weights)


def _try_out(network: SegmentationClassifier) -> None:
    """Run a small image through a network, and set aside the parameters that play no part in it.

    Only this tells whether one of timm's thousand encoders fits a decoder and takes images of any size.

    Raises:
        UserError: The mask has another size than the image.
    """
    network.eval()
    with torch.enable_grad():
        outputs = network(torch.zeros(1, len(network.mean), *TRIAL_SIZE))
    size = tuple(outputs["mask_logits"].shape[-2:]) if "mask_logits" in outputs else TRIAL_SIZE
    if size != TRIAL_SIZE:
        raise UserError(
            f"with these options the decoder makes masks of {size} pixels from images of {TRIAL_SIZE}: "
            "leave model.upsampling out."
        )
    network.rest_unused(outputs)
    network.train()


def _per_channel(values: Iterable[float], channels: int) -> list[float]:
    """Repeat the statistics of red, green, blue as the libraries repeat the weights of the first layer."""
    values = list(values)
    return [values[channel % len(values)] for channel in range(channels)]


def _check_options(decoder: str | None, options: Iterable[str]) -> None:
    """Raise UserError when the decoder lacks an option."""
    known = decoder_options(decoder)
    ours = [name for name in inspect.signature(build_smp).parameters if name != "options"]
    for option in options:
        if option not in known:
            raise UserError(
                f"model.{option} is unknown to {decoder or 'every decoder'}.{nearest(option, known + ours)} "
                f"Allowed: {', '.join(known)}."
            )


def _build_head(
    options: Mapping[str, Any],
    channels: Sequence[int],
    num_masks: int,
    num_classes: int,
    metadata_sizes: Sequence[int],
) -> ClassificationHead | None:
    """Build the classification head, None without classes.

    Raises:
        UserError: It has no such option, or needs a mask and there is none.
    """
    if not num_classes:
        return None
    known = inspect.signature(ClassificationHead).parameters
    for option in options:
        choose("model.head", option, [name for name in known if name not in _NO_OPTIONS])
    if options.get("mask_attention") and num_masks < 1:
        raise UserError(
            "model.head.mask_attention=true needs a mask to look at: choose task=multitask, or set it false."
        )
    return ClassificationHead(
        channels=channels, num_classes=num_classes, metadata_sizes=metadata_sizes, **options
    )


def _metadata_sizes(
    metadata: Mapping[str, str] | None, statistics: Mapping[str, Sequence[Any]] | None, num_classes: int
) -> list[int]:
    """Return the features of each column of metadata; none without."""
    if not metadata:
        return []
    if not num_classes:
        raise UserError(
            f"model.metadata={dict(metadata)} is an input of the classification head, which a task without "
            "classes has not: choose task=multitask or classification, or leave it out."
        )
    if statistics is None:
        raise ValueError("model.metadata without its statistics: they are measured where data are built.")
    return MetadataEncoding(kinds=metadata, statistics=statistics).sizes
