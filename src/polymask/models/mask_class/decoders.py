"""The decoders of segmentation-models-pytorch: options, image sizes and which encoders fit them."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from polymask.errors import UserError
from polymask.models.encoders import EncoderTraits, build_encoder, encoder_traits
from polymask.models.mask_class.transposed_decoder import TransposedNetwork

DECODERS: dict[str, type[nn.Module]] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
    "dpt": smp.DPT,
    "transposed": TransposedNetwork,
}

PLAIN = ("dpt", "transposed")
"""Decoders that take plain vision transformers."""

SIZES: dict[str, Callable[[Any], tuple[int, int]]] = {
    # PAN halves the last map three times.
    "pan": lambda encoder: (encoder.output_stride, 8 * encoder.output_stride),
    # DPT makes a pyramid of its own, down to stride 2 ** (depth + 1), whatever the patch size.
    "dpt": lambda encoder: (math.lcm(encoder.output_stride, 2 ** (len(encoder.out_channels) + 1)), 1),
}
"""Stride and smallest size of images, where these are not just the encoder's stride and 1."""

NOT_OPTIONS = {
    *("self", "kwargs", "encoder_name", "encoder_weights", "in_channels", "classes"),  # set by polymask
    "drop_path",  # of the encoder, whatever the decoder is
    *("activation", "aux_params"),  # would make something else of the outputs than mask logits
}

Parts = tuple[Any, nn.Module | None, nn.Module | None]
"""Encoder, decoder and segmentation head; the last two are None in a network without masks."""


def decoder_options(decoder: str | None) -> list[str]:
    """Return the names of the options that a decoder has; without a decoder, those of any."""
    classes = [DECODERS[decoder]] if decoder else list(DECODERS.values())
    names = {name for network in classes for name in inspect.signature(network.__init__).parameters}
    return sorted(names - NOT_OPTIONS)


def image_sizes(decoder: str | None, encoder: Any) -> tuple[int, int]:
    """Return the number that height and width must be multiples of, and the smallest size allowed."""
    return SIZES[decoder](encoder) if decoder in SIZES else (encoder.output_stride, 1)


def build_parts(
    *,
    decoder: str | None,
    encoder_name: str,
    weights: str | bool | None,
    num_masks: int,
    in_channels: int,
    options: Mapping[str, Any],
    drop_path: float = 0.0,
) -> Parts:
    """Build an encoder and, if `decoder` is not None, what makes masks of its feature maps.

    Args:
        decoder: One of `DECODERS` or None.
        encoder_name: Checked name of the encoder.
        weights: What segmentation-models-pytorch is to download: a name, True for `tu-` encoders, or None.
        num_masks: Channels of the mask logits.
        in_channels: Channels of the images.
        options: Options of the decoder; without one, only `encoder_depth` counts.
        drop_path: See `encoder_traits`.

    Raises:
        UserError: Encoder and decoder do not fit.
    """
    traits = encoder_traits(encoder_name, drop_path=drop_path)
    if decoder is not None:
        _check_fit(decoder, encoder_name, traits)
    with misfit_is_user_error(decoder, encoder_name, "does not work"), warnings.catch_warnings():
        # The library recommends other names than its own `timm-` ones, but they work.
        warnings.simplefilter("ignore", DeprecationWarning)
        if decoder is None:
            encoder = build_encoder(
                encoder_name,
                weights=weights,
                in_channels=in_channels,
                depth=options.get("encoder_depth"),
                drop_path=drop_path,
            )
            return encoder, None, None
        network: Any = DECODERS[decoder](
            encoder_name=encoder_name,
            encoder_weights=weights,
            in_channels=in_channels,
            classes=num_masks,
            **{**_defaults(decoder, options, traits), **options},
            **(traits.options if decoder != "transposed" else {"drop_path": drop_path}),
        )
    return network.encoder, network.decoder, network.segmentation_head


def _defaults(decoder: str, options: Mapping[str, Any], traits: EncoderTraits) -> dict[str, Any]:
    """Return the options that follow from others, where the library's defaults do not fit."""
    if decoder == "pspnet":
        return {"upsampling": 2 ** options.get("encoder_depth", 3)}
    return {"decoder_readout": "ignore"} if decoder == "dpt" and not traits.has_tokens else {}


def _check_fit(decoder: str, encoder_name: str, traits: EncoderTraits) -> None:
    """Raise UserError when a plain transformer meets a decoder for pyramids or the other way round."""
    if traits.plain and decoder not in PLAIN:
        raise UserError(
            f"model.encoder_name={encoder_name!r} is a plain vision transformer, without the feature pyramid "
            f"that model.model={decoder} needs. Use model.model=dpt or transposed, or an encoder such as "
            "resnet34, mit_b0 or tu-convnext_tiny."
        )
    if decoder != "dpt":
        return
    if not traits.plain:
        raise UserError(
            f"model.model=dpt needs a plain vision transformer, which model.encoder_name={encoder_name!r} is "
            "not. Use one such as tu-vit_small_patch16_224, or another model.model."
        )
    if traits.patch_size.bit_count() != 1:
        raise UserError(
            f"model.model=dpt needs patches of 8, 16 or 32 pixels; model.encoder_name={encoder_name!r} has "
            f"patches of {traits.patch_size}."
        )


@contextmanager
def misfit_is_user_error(decoder: str | None, encoder_name: str, failure: str) -> Iterator[None]:
    """Turn whatever the libraries say about parts that do not fit into a UserError.

    Args:
        decoder: One of `DECODERS` or None.
        encoder_name: Name of the encoder.
        failure: What it means that the block fails, such as "does not work".
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, RuntimeError, AssertionError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".!") or type(error).__name__
        company = f"with model.model={decoder}" if decoder else "without decoder"
        raise UserError(
            f"model.encoder_name={encoder_name!r} {company} {failure}: {reason}. "
            "Use another encoder or decoder, or other options of the decoder."
        ) from error
