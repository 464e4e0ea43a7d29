"""The mean and standard deviation that an encoder's pretrained weights expect of the pixels."""

from __future__ import annotations

from collections.abc import Mapping

import segmentation_models_pytorch as smp
import timm
from torch import Tensor

from polymask.models.encoders import TIMM
from polymask.models.weights import is_file

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, for pixels in [0, 1]."""

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def expected_normalization(
    encoder_name: str, weights: str | None, state_dict: Mapping[str, Tensor] | None = None
) -> Normalization:
    """Return what the weights were trained with.

    Args:
        encoder_name: Encoder, with its `tu-` prefix if it is timm's.
        weights: `model.encoder_weights`: None (ImageNet's statistics are as good as any), a name, or a
            file, of which `state_dict` is the content.
        state_dict: Its `pixel_mean` and `pixel_std`, which polymask's own checkpoints have, win.

    Returns:
        Mean and standard deviation for pixels in [0, 1].
    """
    stored = _stored(state_dict or {})
    if stored is not None:
        return stored
    if weights is None:
        return IMAGENET
    if encoder_name.startswith(TIMM):
        config = timm.models.get_pretrained_cfg(encoder_name.removeprefix(TIMM))
        return (tuple(config.mean), tuple(config.std)) if config is not None else IMAGENET
    if is_file(weights):
        return IMAGENET
    settings = smp.encoders.get_preprocessing_params(encoder_name, pretrained=weights)
    # Some sets of weights state their statistics for pixels in [0, 255].
    top = settings["input_range"][1]
    return tuple(value / top for value in settings["mean"]), tuple(value / top for value in settings["std"])


def _stored(state_dict: Mapping[str, Tensor]) -> Normalization | None:
    """Return the statistics that a SegmentationClassifier left in its state dict."""
    found = {key.rpartition(".")[2]: value for key, value in state_dict.items()}
    if "pixel_mean" not in found or "pixel_std" not in found:
        return None
    return tuple(found["pixel_mean"].flatten().tolist()), tuple(found["pixel_std"].flatten().tolist())
