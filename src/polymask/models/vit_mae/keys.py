"""Names of weights: transformers' of any version, and those of timm and of the authors of the method.

A network here has the names of transformers 5.24, and so have its checkpoints, whatever version is installed:
`vit.…` is the encoder, `decoder.…` the decoder. timm and the authors (facebookresearch/mae) share their names
of the encoder, and have one matrix for queries, keys and values where transformers has three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_STEMS = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "vit.layers": "blocks",
    "vit.layernorm": "norm",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_layers": "decoder_blocks",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}
"""transformers' names outside of the layers to the authors'."""

_QKV = ("q", "k", "v")
_PARTS = {
    "layernorm_before": "norm1",
    **{f"attention.{name}_proj": f"attn.{name}" for name in _QKV},
    "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""The same of a layer's parts; in files of timm q, k and v are one."""

_SINCE_5 = (
    (r"\bencoder\.layer\.", "layers."),
    (r"\.attention\.attention\.([qkv])(?:uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
"""What transformers called otherwise up to 5.0: patterns, and what takes their place."""

_KEY = re.compile(r"(?P<stem>.*?)(?:\.(?P<layer>\d+)\.(?P<part>.+?))?(?:\.(?P<kind>weight|bias))?")
_CLASS_TOKENS = ("vit.embeddings.cls_token", "embeddings.cls_token", "cls_token")


def todays_name(key: str) -> str:
    """Return transformers' name of a weight, of whatever version, as 5.24 spells it."""
    for old, new in _SINCE_5:
        key = re.sub(old, new, key)
    return key


def todays_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file of any of the three kinds under the names of a network here.

    Args:
        weights: An encoder with or without a decoder, under any prefix; what lies outside of the prefix is
            left out. Names that none of the three kinds has are kept as they are.
    """
    prefix = _prefix(weights)
    inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return {_from_any(key): value for key, value in _split(inside).items()}


def timm_names(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a network's encoder, `vit.…`, under timm's names.

    Raises:
        KeyError: A name has no counterpart: nothing may be lost in silence.
    """
    renamed = {_translated(key, _STEMS, _PARTS): value for key, value in encoder.items()}
    joined = {}
    for key, value in renamed.items():
        layer, mark, kind = key.partition(".attn.q.")
        if mark:
            parts = [renamed[f"{layer}.attn.{name}.{kind}"] for name in _QKV]
            joined[f"{layer}.attn.qkv.{kind}"] = torch.cat(parts)
        elif ".attn.k." not in key and ".attn.v." not in key:
            joined[key] = value
    return joined


def _prefix(weights: Mapping[str, Tensor]) -> str:
    """Return what stands before the name of the class token, and so before all names."""
    for own in _CLASS_TOKENS:
        for key in weights:
            if key == own or key.endswith(f".{own}"):
                return key.removesuffix(own)
    return ""


def _split(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with each matrix `attn.qkv` (3d, d) cut into `attn.q`, `attn.k` and `attn.v`."""
    split: dict[str, Tensor] = {}
    for key, value in weights.items():
        layer, mark, kind = key.partition(".attn.qkv.")
        names = [f"{layer}.attn.{name}.{kind}" for name in _QKV] if mark else [key]
        split |= zip(names, value.chunk(3) if mark else [value], strict=True)
    return split


def _from_any(key: str) -> str:
    """Return the name in a network here of a weight of any of the three kinds."""
    try:
        return _translated(key, _inverse(_STEMS), _inverse(_PARTS))
    except KeyError:
        key = todays_name(key)
        # A model of transformers without a decoder has no `vit.` before its names.
        return f"vit.{key}" if key.startswith(("embeddings.", "layers.", "layernorm.")) else key


def _translated(key: str, stems: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """Return a name of one library as the other has it.

    Raises:
        KeyError: It has none.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise KeyError(key)
    words = [stems[found["stem"]]]
    if found["part"] is not None:
        words += [found["layer"], parts[found["part"]]]
    return ".".join([*words, found["kind"]] if found["kind"] else words)


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in names.items()}
