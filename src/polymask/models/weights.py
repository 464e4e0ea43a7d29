"""Weights for an encoder: from a local file, or downloaded by the libraries with a quick answer offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from safetensors.torch import load_file
from torch import Tensor, nn

from polymask.errors import UserError, choose
from polymask.models.encoders import TIMM
from polymask.utils.archives import read_tensors
from polymask.utils.paths import resolve

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights")
"""Names under which training programs keep the weights of the network itself."""
CLASSIFIERS = ("fc", "_fc", "last_linear", "classifier", "head", "head_dist", "fc_norm", "logits")
REMEDY = (
    "Use model.encoder_weights=null (random weights), model.encoder_weights=/path/to/file "
    f"({', '.join(SUFFIXES)}) or a filled Hugging Face cache (HF_HOME=/path/to/cache HF_HUB_OFFLINE=1)."
)


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


def load_encoder_weights(encoder: nn.Module, source: Mapping[str, Tensor], path: str) -> None:
    """Copy the encoder's part of a state dict into the encoder.

    The keys may have any common prefix (`encoder.`, `model.encoder.`, ...); what lies outside the prefix
    belongs to other parts of a larger model and is left alone. A timm model's own keys fit the pyramid
    that segmentation-models-pytorch makes of it.

    Args:
        encoder: Encoder of segmentation-models-pytorch.
        source: State dict.
        path: Where it came from, for the message.

    Raises:
        UserError: Keys are missing or unexpected (a classifier's keys may be), or shapes differ.
    """
    target = encoder.state_dict()
    names = {_canonical(key): key for key in target}
    prefix = _common_prefix(source, names)
    inside = {key: key.removeprefix(prefix) for key in source if key.startswith(prefix)}
    matched = {
        names[_canonical(name)]: source[key] for key, name in inside.items() if _canonical(name) in names
    }
    missing = [key for key in target if key not in matched and not key.endswith("num_batches_tracked")]
    unexpected = [
        key
        for key, name in inside.items()
        if _canonical(name) not in names and name.partition(".")[0] not in CLASSIFIERS
    ]
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(target[key].shape)}"
        for key, value in matched.items()
        if value.shape != target[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    found = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if found:
        raise UserError(
            f"model.encoder_weights={path} does not fit the encoder: keys {'; '.join(found)}. "
            "Use the file of the same model.encoder_name and model.encoder_depth."
        )
    nn.Module.load_state_dict(encoder, matched, strict=False)


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
