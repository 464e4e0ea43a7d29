"""Mask R-CNN on slices of volumes, from configuration values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from polymask.errors import UserError, whole_number
from polymask.models.mask_rcnn import model as plain
from polymask.models.slices.embedding import EmbeddingHead
from polymask.models.slices.fusion import build_fusion, is_late
from polymask.models.slices.options import odd, one_of
from polymask.models.slices.segmenter import SliceSegmenter
from polymask.structures.gives import gives


@gives("volume")
def build_model(
    *,
    slices: int,
    fusion: Mapping[str, Any],
    embedding: bool = False,
    normalization: str = "auto",
    channels: int = 256,
    **detector: Any,
) -> SliceSegmenter:
    """Build a Mask R-CNN that sees each slice of a volume with its neighbours.

    Args:
        slices: How many slices it sees, an odd number, the slice itself in their middle.
        fusion: What makes one image, or the maps of one, of them: see `build_fusion`.
        embedding: Whether a head beside box, class and mask learns which boxes of neighbouring slices show
            the same object.
        normalization: Of the 2-D network; not `batch` with a late fusion.
        channels: Of the 2-D network.
        detector: Its other options, see `polymask.models.mask_rcnn.build_model`.

    Raises:
        UserError: A value is not allowed, or weights do not exist or fit.
    """
    odd("data.slices", slices, why="the slice itself lies in the middle")
    one_of("model.embedding", embedding, (False, True))
    whole_number("model.channels", channels, least=1)
    if is_late(fusion) and normalization == "batch":
        raise UserError(
            f"model.normalization=batch does not fit model.fusion.name={fusion['name']}: a batch would mix "
            "the statistics of neighbouring slices; use frozen or group, or an early fusion."
        )
    build_parts = partial(_build_parts, fusion, slices=slices, channels=channels, embedding=embedding)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        build_parts()  # only to hear of mistakes before weights are loaded
    network = plain.build_model(normalization=normalization, channels=channels, **detector)
    return SliceSegmenter(network, slices=slices, build_parts=build_parts)


def _build_parts(
    fusion: Mapping[str, Any], *, slices: int, channels: int, embedding: bool
) -> dict[str, nn.Module | None]:
    """Build what the 2-D network does not have."""
    return {
        "fusion": build_fusion(fusion, slices=slices, channels=channels),
        "embedding": EmbeddingHead(channels) if embedding else None,
    }


def _with_options_of_the_detector() -> inspect.Signature:
    """Return the signature with all arguments by name, by which configurations are checked."""
    own = inspect.signature(build_model).parameters
    others = inspect.signature(plain.build_model).parameters
    named = {name: value for name, value in own.items() if value.kind == value.KEYWORD_ONLY}
    return inspect.Signature(list((named | {k: v for k, v in others.items() if k not in named}).values()))


build_model.__signature__ = _with_options_of_the_detector()  # type: ignore[attr-defined]
