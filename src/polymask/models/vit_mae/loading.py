"""Weights for a masked autoencoder from a file: published ones, or an encoder alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.models.pixels import expected_normalization
from polymask.models.vit_mae.keys import todays_names
from polymask.models.vit_mae.network import MaskedAutoencoder
from polymask.models.weights import CLASSIFIERS, SUFFIXES, read_state_dict, resample_positions
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_TABLES = ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")
_STATISTICS = ("mean", "std", "pixel_mean", "pixel_std")


def load_file(network: MaskedAutoencoder, path: str) -> None:
    """Load the weights of a file into a network, and tell what was loaded in the log.

    Tables of positions of another image size are resampled. A decoder that the file lacks, or has in another
    size, starts anew; the encoder must fit whole.

    Args:
        network: Where to.
        path: The file.

    Raises:
        UserError: There is no such file, or its encoder is none or another one.
    """
    if not resolve(path).is_file():
        raise UserError(
            f"model.weights={path}: there is no such file. Use model.weights=null (random weights) or the "
            f"path of a file ({', '.join(SUFFIXES)})."
        )
    content = read_state_dict(path)
    own, source = network.state_dict(), todays_names(content)
    resampled = _resample_tables(source, own)
    _check_encoder(source, own, path)
    loaded = {key: value for key, value in source.items() if key.startswith("vit.")}
    if trouble := _differences(source, own, "decoder."):
        log.warning("model.weights=%s: %s, so the decoder starts anew", path, "; ".join(trouble))
    else:
        loaded |= {key: value for key, value in source.items() if key.startswith("decoder.")}
    expected = zip(("mean", "std"), expected_normalization("", None, content), strict=True)
    # Under these names a network here has them in its own checkpoints.
    statistics = {name: source.get(name, torch.tensor(values)) for name, values in expected}
    network.load_state_dict(loaded | statistics, strict=False)
    for key in filter(loaded.__contains__, resampled):
        log.info("model.weights=%s: %s resampled to %d patches", path, key, network.num_patches)
    num_weights = sum(key not in statistics for key in own)
    log.info("model.weights=%s: %d of %d tensors loaded", path, len(loaded), num_weights)


def _resample_tables(source: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Bring tables of positions of another square grid to this one's; return the names of those."""
    resampled = []
    for key in _TABLES:
        table, wanted = source.get(key), own[key]
        if table is None or table.dim() != 3 or table.shape[1] == wanted.shape[1]:
            continue
        side = math.isqrt(wanted.shape[1] - 1)
        found = resample_positions(table, [side, side], num_tokens=1)
        if found is not None:
            source[key] = found
            resampled.append(key)
    return resampled


def _check_encoder(source: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    """Raise UserError unless the file has exactly the encoder, and nothing unknown beside it."""
    known = ("vit", "decoder", *_STATISTICS, *CLASSIFIERS)
    strange = [key for key in source if key.partition(".")[0] not in known]
    trouble = [*_differences(source, own, "vit."), *_listed("unknown", strange)]
    if trouble:
        raise UserError(
            f"model.weights={path} does not fit the encoder: {'; '.join(trouble)}. Use the file of a plain "
            "vision transformer of the same model.size (or hidden_size, depth) and model.patch_size."
        )


def _differences(source: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Return in words what a file has otherwise than the network below a prefix."""
    wanted, found = (
        {key: value.shape for key, value in weights.items() if key.startswith(prefix)}
        for weights in (own, source)
    )
    shapes = [
        f"{key} {tuple(found[key])} instead of {tuple(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    return [
        *_listed("missing", [key for key in wanted if key not in found]),
        *_listed("unexpected", [key for key in found if key not in wanted]),
        *_listed("of another shape", shapes),
    ]


def _listed(what: str, keys: Iterable[str]) -> list[str]:
    """Return a clause with the number of keys and the first of them; nothing of none."""
    keys = list(keys)
    return [f"{len(keys)} tensors {what} ({keys[0]}{', …' if len(keys) > 1 else ''})"] if keys else []
