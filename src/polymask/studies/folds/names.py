"""Names by which a reader tells studies apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_ENCODERS = ("model.backbone", "model.encoder_name")


def study_names(studies: Sequence[tuple[Mapping[str, Any], str]]) -> list[str]:
    """Return one name per study, no two alike.

    A name is the model, its backbone or encoder, and, where studies share these, the fewest settings that
    tell them apart; the name of the run is the last resort. An ensemble has its own name.

    Args:
        studies: Configuration of each study under dotted keys, and the name of its first run.
    """
    # Several networks together are none of them.
    stems = [run if config.get("ensemble") else _stem(config) for config, run in studies]
    names = list(stems)
    for stem in dict.fromkeys(stems):
        alike = [index for index, other in enumerate(stems) if other == stem]
        configs = [studies[index][0] for index in alike]
        keys = _telling_keys(configs)
        texts = [_shown([_text(config.get(key)) for config in configs]) for key in keys]
        for row, index in enumerate(alike):
            settings = [
                f"{key.removeprefix('model.')}={text[row]}" for key, text in zip(keys, texts, strict=True)
            ]
            names[index] = " ".join([stem, *settings])
    counts = Counter(names)
    return [
        f"{name} ({run})" if counts[name] > 1 else name for name, (_, run) in zip(names, studies, strict=True)
    ]


def _stem(config: Mapping[str, Any]) -> str:
    """Return model and encoder; a model without a word of its own is called as its module."""
    target = str(config.get("model._target_") or "").split(".")
    model = config.get("model.model") or (target[-2] if len(target) > 1 else "model")
    return " ".join(str(part) for part in (model, *(config.get(key) for key in _ENCODERS)) if part)


def _telling_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys, as few as a greedy choice finds, whose values tell all `configs` apart."""
    keys = dict.fromkeys(key for config in configs for key in config)
    texts = {key: [_text(config.get(key)) for config in configs] for key in keys}
    chosen: list[str] = []

    def num_apart(candidate: Sequence[str]) -> int:
        return len(set(zip(*(texts[key] for key in candidate), strict=True))) if candidate else 1

    while num_apart(chosen) < num_apart(list(keys)):
        # Of keys that tell equally much apart, the one that is quickest to read.
        chosen.append(max(keys, key=lambda key: (num_apart([*chosen, key]), -len(key + "".join(texts[key])))))
    return chosen


def _shown(texts: Sequence[str]) -> list[str]:
    """Return paths by the names of their files alone, where these tell as much apart."""
    names = [text.rpartition("/")[2] or text for text in texts]
    return names if len(set(names)) == len(set(texts)) else list(texts)


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
