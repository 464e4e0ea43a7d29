"""Weights for a Mask R-CNN: torchvision's, downloaded or from its cache, or those of a local file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, WeightsEnum
from torchvision.models.detection import (
    MaskRCNN,
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
)

from polymask.errors import UserError
from polymask.models.batch_norm import absorb_missing_epsilon
from polymask.models.mask_rcnn.detector import EncoderMaps
from polymask.models.weights import SUFFIXES, load_encoder_weights

log = logging.getLogger(__name__)

WHOLE = {
    "resnet50_fpn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "resnet50_fpn_v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
}
"""Weights `coco` of a whole detector."""

ENCODERS = dict.fromkeys(WHOLE, ResNet50_Weights.IMAGENET1K_V1)
"""Weights `imagenet` of the encoder alone."""

_PREDICTORS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")
_ANCHOR_LAYERS = ("rpn.head.cls_logits.", "rpn.head.bbox_pred.")
_PATIENCE = 5.0  # seconds for the first answer of the server


def download(weights: WeightsEnum, name: str) -> dict[str, Tensor]:
    """Return torchvision's weights from its cache (`TORCH_HOME`), else from its server.

    Args:
        weights: Which ones.
        name: What the user called them, for the message.

    Raises:
        UserError: They are neither cached nor reachable, or do not arrive whole.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
    try:
        if not cached.is_file():
            # Asked first with a short patience: the loader itself would wait without end.
            urlopen(Request(weights.url, method="HEAD"), timeout=_PATIENCE).close()
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model.weights={name}: {cached} is not there or not whole, and {weights.url} cannot be "
            f"downloaded ({first_line}). Use model.weights=null (random weights), "
            f"model.weights=/path/to/file ({', '.join(SUFFIXES)}) or put the file there "
            "(TORCH_HOME moves the cache)."
        ) from error


def load_coco(detector: MaskRCNN, backbone: str) -> None:
    """Load what torchvision trained on COCO, all but the predictors, whose classes are others."""
    source = download(WHOLE[backbone], "coco")
    _load(detector, {key: value for key, value in source.items() if not key.startswith(_PREDICTORS)}, "coco")
    if backbone == "resnet50_fpn":
        absorb_missing_epsilon(detector.backbone.body)


def load_imagenet(detector: MaskRCNN, backbone: str) -> None:
    """Load the encoder that torchvision trained on ImageNet."""
    source = download(ENCODERS[backbone], "imagenet")
    load_encoder_weights(detector.backbone.body, source, "imagenet", name=backbone)


def load_file(detector: MaskRCNN, source: Mapping[str, Tensor], path: str, *, backbone: str) -> None:
    """Load a file's content: the state dict of a detector, under any prefix, or of an encoder alone.

    Predictors for another number of classes, and the proposal head's last layers for another number of
    anchors, stay as they are; a note in the log says so.

    Args:
        detector: Where to.
        source: State dict.
        path: Where it came from, for messages.
        backbone: The detector's backbone.

    Raises:
        UserError: It does not fit.
    """
    body = detector.backbone.body
    prefix = next((key.partition("roi_heads.")[0] for key in source if "roi_heads." in key), None)
    if prefix is None:
        encoder = body.encoder if isinstance(body, EncoderMaps) else body
        load_encoder_weights(encoder, source, path, name=backbone)
        return
    own = {key.removeprefix(prefix): value for key, value in source.items() if key.startswith(prefix)}
    _load(detector, _fitting(own, detector, path), path)
    if backbone == "resnet50_fpn" and not any(key.endswith("num_batches_tracked") for key in own):
        # The mark of torchvision's frozen normalisation, which adds nothing to the variance.
        absorb_missing_epsilon(body)


def _fitting(source: dict[str, Tensor], detector: nn.Module, path: str) -> dict[str, Tensor]:
    """Return the entries without those of output layers that have another shape."""
    target = detector.state_dict()
    for layers in (*((name,) for name in _PREDICTORS), _ANCHOR_LAYERS):
        inside = [key for key in source if key.startswith(layers)]
        if any(key in target and source[key].shape != target[key].shape for key in inside):
            log.warning(
                "model.weights=%s: %s are for other classes, anchors or a hidden size than the network's, so "
                "they start anew",
                path,
                " and ".join(name.rstrip(".") for name in layers),
            )
            source = {key: value for key, value in source.items() if key not in inside}
    return source


def _load(detector: MaskRCNN, source: Mapping[str, Tensor], name: str) -> None:
    """Load a detector's state dict, in which output layers and the statistics of pixels may be absent.

    Raises:
        UserError: Other keys are missing, any are unexpected, or shapes differ.
    """
    try:
        missing, unexpected = detector.load_state_dict(dict(source), strict=False)
    except RuntimeError as error:  # the shapes
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"model.weights={name} does not fit model.backbone: {' '.join(lines[1:2])} "
            "Use the backbone and the sizes that it was trained with."
        ) from error
    optional = ("transform.", *_PREDICTORS, *_ANCHOR_LAYERS)
    missing = [key for key in missing if not key.startswith(optional)]
    problems = {"missing": missing, "unexpected": unexpected}
    found = [f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in problems.items() if keys]
    if found:
        raise UserError(
            f"model.weights={name} does not fit model.backbone: keys {'; '.join(found)}. "
            "Use the backbone and the normalization that it was trained with."
        )


@contextmanager
def own_keys() -> Iterator[None]:
    """Let errors about encoders name the keys by which this model configures them."""
    try:
        yield
    except UserError as error:
        message = str(error).replace("model.encoder_weights", "model.weights")
        message = message.replace(" and model.encoder_depth", "")  # it takes all stages
        raise UserError(message.replace("model.encoder_name", "model.backbone")) from error
