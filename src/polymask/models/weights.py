"""Weights for an encoder: from a local file, or downloaded by the libraries with a quick answer offline."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from polymask.errors import UserError, choose
from polymask.models.encoders import TIMM
from polymask.utils.archives import read_tensors
from polymask.utils.paths import resolve

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights")
"""Names under which training programs keep the weights of the network itself."""
CLASSIFIERS = ("fc", "_fc", "last_linear", "classifier", "head", "head_dist", "fc_norm", "logits")
OPTIONAL = (*CLASSIFIERS, "norm", "pixel_mean", "pixel_std")
"""What a file may have, or lack, without harm: no map comes from a classifier or the norm in front of it."""
REMEDY = (
    "Use model.encoder_weights=null (random weights), model.encoder_weights=/path/to/file "
    f"({', '.join(SUFFIXES)}) or a filled Hugging Face cache (HF_HOME=/path/to/cache HF_HUB_OFFLINE=1)."
)


_BLOCK = re.compile(r"blocks\.(\d+)\.")

log = logging.getLogger(__name__)


def is_file(weights: str | None) -> bool:
    """Return whether `model.encoder_weights` means a file rather than a name."""
    return weights is not None and ("/" in weights or weights.endswith(SUFFIXES))


def check_weights_name(encoder_name: str, weights: str) -> None:
    """Raise UserError when there are no weights of that name; for `tu-` encoders any name will do."""
    if encoder_name.startswith(TIMM):
        if not timm.models.is_model_pretrained(encoder_name.removeprefix(TIMM)):
            raise UserError(f"timm has no pretrained weights for {encoder_name!r}. {REMEDY}")
        return
    known = smp.encoders.encoders[encoder_name]["pretrained_settings"]
    choose("model.encoder_weights", weights, [*known, "null", f"/path/to/file ({', '.join(SUFFIXES)})"])


@contextmanager
def hub_access(encoder_name: str, weights: str) -> Iterator[None]:
    """Let the block download weights; where the hub does not answer, let it use the cache without retries.

    Left alone, the hub's client tries each file for about 20 seconds before it looks in the cache.

    Raises:
        UserError: The weights are neither reachable nor cached.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    except OSError as error:
        reason = "HF_HUB_OFFLINE is set" if before else f"no connection to {constants.ENDPOINT}"
        if not constants.HF_HUB_OFFLINE:
            reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model.encoder_weights={weights!r} of {encoder_name!r} are not in the cache and cannot be "
            f"downloaded ({reason}). {REMEDY}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    """Ask the hub once, through the user's proxies and mirror, with a short patience."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return get_session().head(constants.ENDPOINT, timeout=3).status_code < 500
    except Exception:  # the client's errors differ between versions; all of them mean "no answer"
        return False


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Read the tensors of a weights file.

    Args:
        path: A `.safetensors` file or one of `torch.save` that holds a state dict, as it is or inside of
            dicts, such as {"model": ...}, {"model_state_dict": ...} or {"net": {"state_dict": ...}}.

    Raises:
        UserError: The file is absent, unreadable, holds something else, or several state dicts of which none
            has a name in `WRAPPERS`.
    """
    file = resolve(path)
    if not file.is_file():
        raise UserError(f"model.encoder_weights={path}: there is no such file. {REMEDY}")
    try:
        content: Any = (
            load_file(file) if file.suffix == ".safetensors" else read_tensors(file, checksums=False)
        )
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"model.encoder_weights={path}: not a file of weights only ({first_line})."
        ) from error
    tensors = _unwrapped(content, path)
    if not tensors:
        raise UserError(f"model.encoder_weights={path}: the file holds no state dict.")
    return tensors


def _unwrapped(content: Any, path: str, depth: int = 0) -> dict[str, Tensor]:
    """Return the state dict inside of dicts, empty when there is none.

    Beside the weights such files hold an optimizer's state, averages, counters: of several state dicts the
    one of the first name in `WRAPPERS` is meant, else there must be only one.
    """
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content) or depth > 3:
        return {}
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    for name in WRAPPERS:
        if found := _unwrapped(content.get(name), path, depth + 1):
            return found
    if tensors:
        return tensors
    inside = {key: found for key, value in content.items() if (found := _unwrapped(value, path, depth + 1))}
    if len(inside) > 1:
        raise UserError(
            f"model.encoder_weights={path}: the file holds several state dicts ({', '.join(inside)}); save "
            "the one that is meant alone: torch.save(content[name], file)."
        )
    return next(iter(inside.values()), {})


def load_encoder_weights(encoder: nn.Module, source: Mapping[str, Tensor], path: str, *, name: str) -> None:
    """Copy the encoder's part of a state dict into the encoder, and log how many keys that were.

    The keys may have any common prefix (`encoder.`, `model.encoder.`, ...); what lies outside the prefix
    belongs to other parts of a larger model and is left alone. A timm model's own keys fit the pyramid
    that segmentation-models-pytorch makes of it. The position table of a plain transformer that was trained
    on images of another size is resampled.

    Args:
        encoder: Encoder of segmentation-models-pytorch.
        source: State dict.
        path: Where it came from, for the messages.
        name: The encoder's name, for the message.

    Raises:
        UserError: Keys are missing or unexpected (those of `OPTIONAL` may be), or shapes differ.
    """
    target = encoder.state_dict()
    names = {_canonical(key): key for key in target}
    prefix = _common_prefix(source, names)
    inside = {key.removeprefix(prefix): value for key, value in source.items() if key.startswith(prefix)}
    matched = {names[_canonical(key)]: value for key, value in inside.items() if _canonical(key) in names}
    resampled = _resample_positions(encoder, matched)
    missing = [key for key in target if key not in matched and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in inside if _canonical(key) not in names]
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(target[key].shape)}"
        for key, value in matched.items()
        if value.shape != target[key].shape
    ]
    problems = _counted(
        {"missing": _needed(missing), "unexpected": _needed(unexpected), "of another shape": shapes}
    )
    if problems:
        raise UserError(
            f"model.encoder_weights={path} does not fit model.encoder_name={name}: "
            f"{_two_transformers(inside, target) or f'keys {problems}'}. "
            "Use the file of the same model.encoder_name and model.encoder_depth; the encoder of a run is "
            "written by polymask export-encoder."
        )
    nn.Module.load_state_dict(encoder, matched, strict=False)
    others = _counted({"resampled": resampled, "missing": missing, "left out": unexpected})
    log.info("%s: %d of %d keys loaded; %s", path, len(matched), len(target), others or "none left out")


def _counted(kinds: Mapping[str, list[str]]) -> str:
    """Return the numbers of keys of each kind, with the first few of them."""
    return "; ".join(f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in kinds.items() if keys)


def _needed(keys: list[str]) -> list[str]:
    """Return the keys without those that make no difference."""
    return [key for key in keys if key.removeprefix("model.").partition(".")[0] not in OPTIONAL]


def _resample_positions(encoder: nn.Module, matched: dict[str, Tensor]) -> list[str]:
    """Give the position table of a plain transformer the size of the encoder's, and return what was done.

    Tables of images that are not square, or of another width, stay as they are.
    """
    key = "model.pos_embed"
    if not isinstance(encoder, TimmViTEncoder) or key not in matched:
        return []
    table, own = matched[key], encoder.state_dict()[key]
    if table.shape == own.shape or table.ndim != 3 or own.ndim != 3 or table.shape[-1] != own.shape[-1]:
        return []
    grid = list(encoder.model.patch_embed.grid_size)
    num_tokens = own.shape[1] - math.prod(grid)
    resampled = resample_positions(table, grid, num_tokens=num_tokens)
    if resampled is None:
        return []
    matched[key] = resampled
    side = math.isqrt(table.shape[1] - num_tokens)
    return [f"pos_embed from {side} x {side} to {' x '.join(map(str, grid))} patches"]


def resample_positions(table: Tensor, grid: list[int], *, num_tokens: int) -> Tensor | None:
    """Bring a position table of a square grid of patches to another grid.

    Args:
        table: (1, T + N, C), T tokens in front of N patches.
        grid: Rows and columns of patches.
        num_tokens: T.

    Returns:
        (1, T + rows * columns, C), None when N is no square number.
    """
    num_patches = max(table.shape[1] - num_tokens, 0)
    if num_patches == 0 or math.isqrt(num_patches) ** 2 != num_patches:
        return None
    resampled: Tensor = resample_abs_pos_embed(table, grid, num_prefix_tokens=num_tokens)
    return resampled


def _two_transformers(inside: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str:
    """Say what a file and an encoder hold, if both are plain transformers of different build."""
    given, wanted = _build_of(inside), _build_of(target)
    if not given or not wanted or given == wanted:
        return ""
    return f"the file holds a vision transformer of {given}, the encoder has {wanted}"


def _build_of(state: Mapping[str, Tensor]) -> str:
    """Return the measures of a plain vision transformer under timm's names, "" of anything else."""
    own = {key.removeprefix("model."): value for key, value in state.items()}
    blocks = {match[1] for key in own if (match := _BLOCK.match(key))}
    projection = own.get("patch_embed.proj.weight")
    if not blocks or projection is None or projection.ndim != 4:
        return ""
    width, size = projection.shape[0], projection.shape[-1]
    return f"{len(blocks)} blocks of {width} channels on patches of {size} pixels"


def _canonical(key: str) -> str:
    """Return a key without the differences between a timm model and the pyramid made of it."""
    return key.removeprefix("model.").replace(".", "_")


def _common_prefix(source: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """Return the prefix after which most keys of `source` are names of the encoder."""
    votes: Counter[str] = Counter()
    for key in source:
        parts = key.split(".")
        for cut in range(len(parts)):
            if _canonical(".".join(parts[cut:])) in names:
                votes[".".join(parts[:cut]) + "." * (cut > 0)] += 1
    return max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")


def _some(keys: list[str]) -> str:
    """Return the first few keys."""
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
