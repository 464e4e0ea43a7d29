"""What a checkpoint must hold, and what becomes of it before anything else of polymask sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.families.old_names import update_names
from polymask.places import keep_inside
from polymask.training.run_names import best_name, run_of
from polymask.training.state import TrainingState
from polymask.trust import check_config
from polymask.utils.names import has_control_characters, is_file_name

log = logging.getLogger(__name__)

FORMAT = 2
SECTIONS = ("data", "transforms", "model", "task", "loss", "optimizer", "scheduler", "tracker", "trainer")
"""Parts of a configuration, each with keys of its own."""


def run_name_of(path: Path) -> str:
    """Return the name of the run that a checkpoint file belongs to: that of the file.

    Raises:
        UserError: It is no name for the files and folders of a run.
    """
    name = path.name.removesuffix(".pth").removesuffix(".pt").removesuffix(".last")
    if not is_file_name(name):
        raise UserError(f"checkpoint {path}: {name!r} cannot be the name of a run; rename the file.")
    return name


def checked_weights(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, of which only the weights were looked at.

    Raises:
        UserError: It is no checkpoint, one of a later version, or its weights are none.
    """
    if not isinstance(content, dict) or "format" not in content or "model" not in content:
        raise UserError(
            f"{path} is not a polymask checkpoint; give a file that src/train.py wrote (weights alone are "
            "read by model.weights= or model.encoder_weights=, whichever the model has)."
        )
    if isinstance(content["format"], int) and content["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {content['format']}; this version reads up to {FORMAT}."
        )
    _check_fields(content, {name: _REQUIRED[name] for name in ("format", "model", "ema")}, path)
    return content


def checked_content(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, safe to build from whoever wrote it.

    Every field is of its type; the configuration names allowed constructors only and writes inside the
    project (`moved` holds what else it said); the run is called like the file. A copy of another run's file
    goes on as a run of its own: it has a `parent_run`, and no run of the tracker yet. So does `run@metric`,
    the best checkpoint by a further metric, whose results lie beside those of `run`.

    Raises:
        UserError: Something of it is not so.
    """
    content = checked_weights(content, path)
    _check_fields(content, _REQUIRED, path)
    if path.name.endswith(".last.pt"):
        _check_fields(content, _RESUMABLE, path)
    content = {**_DEFAULTS, **content}
    _check_fields(content, _OPTIONAL, path)
    if content["format"] == 1:
        update_names(content["config"])
    check_config(content["config"], str(path))
    content["training"] = TrainingState(**content["training"]).state_dict()
    content["moved"] = keep_inside(content["config"])
    return _called_like_its_file(content, path)


def _called_like_its_file(content: dict[str, Any], path: Path) -> dict[str, Any]:
    name, written = run_name_of(path), content["run_name"]
    if name == written:
        return content
    if path.name.endswith(".last.pt"):
        _check_bests(content["training"], path, name, written)
    if run_of(name) != run_of(written):
        log.info("%s was written by run %s; it is taken as a run of its own, %s", path.name, written, name)
    content["config"]["run_name"] = name
    return {**content, "run_name": name, "parent_run": written, "tracker_run_id": ""}


def _check_bests(training: Mapping[str, Any], path: Path, name: str, written: str) -> None:
    """Raise UserError when a copied last checkpoint claims a best epoch whose file was not copied with it."""
    files = {name: written} if training["best_epoch"] else {}
    files |= {best_name(name, key): best_name(written, key) for key in training.get("best_epochs", {})}
    for own, original in files.items():
        best = path.with_name(f"{own}.pt")
        if not best.is_file():
            raise UserError(
                f"{path} is a copy of run {written!r} without its best epoch; copy {original}.pt to {best}, "
                "too."
            )


def _check_fields(content: Mapping[str, Any], wanted: Mapping[str, _Check], path: Path) -> None:
    for name, (is_valid, what) in wanted.items():
        if name in content and is_valid(content[name]):
            continue
        value = content.get(name)
        found = f"is {_shown(value)}" if name in content else "is missing"
        raise UserError(
            f"checkpoint {path} is not valid: {name} {found}, and must be {what}. It is damaged, or "
            "src/train.py did not write it; copy it again or train anew."
        )


def _shown(value: Any) -> str:
    """Return a small value as it is, and what kind of thing any other is."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _mapping(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return the check of a dict with text as keys and such values."""
    return lambda value: (
        isinstance(value, dict) and all(isinstance(key, str) and of(item) for key, item in value.items())
    )


def _is_weight(value: Any) -> bool:
    """Return whether a value can be copied into a parameter: sparse and complex tensors can't."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex()


def _is_weight_or_count(value: Any) -> bool:
    return isinstance(value, int) or _is_weight(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_class_names(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_text(name) and not has_control_characters(name) for name in value
    )


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(section), dict) for section in SECTIONS)


def _is_training(value: Any) -> bool:
    known = {field.name for field in fields(TrainingState)}
    if not isinstance(value, dict) or not known.issuperset(value):
        return False
    tables, best = [value.get(name, []) for name in ("history", "points")], value.get("best_value")
    bests = [value.get(name, {}) for name in ("best_values", "best_epochs")]
    others = ("history", "points", "window", "best_value", "best_values", "best_epochs")
    return (
        all(_is_whole(item) for name, item in value.items() if name not in others)
        and (best is None or _is_number(best))
        and _mapping(_is_number)(value.get("window", {}))
        and _mapping(_is_number)(bests[0])
        and _mapping(_is_whole)(bests[1])
        and bests[0].keys() == bests[1].keys()
        and all(is_file_name(best_name("run", key)) for key in bests[0])
        and all(isinstance(table, list) and all(map(_mapping(_is_number), table)) for table in tables)
    )


_Check = tuple[Callable[[Any], bool], str]
_TEXTS: _Check = (_mapping(_is_text), "a dict of texts")
_STATE: _Check = (lambda value: isinstance(value, dict), "a dict")

_REQUIRED: dict[str, _Check] = {
    "format": (lambda value: _is_whole(value) and 0 < value <= FORMAT, f"a number from 1 to {FORMAT}"),
    "model": (_mapping(_is_weight), "a dict of dense tensors of real numbers"),
    "ema": (
        lambda value: value is None or _mapping(_is_weight_or_count)(value),
        "a dict of dense tensors of real numbers, or None",
    ),
    "run_name": (is_file_name, "a name without folders"),
    "config": (_is_config, f"a configuration with {', '.join(SECTIONS)}"),
    "groups": _TEXTS,
    "class_names": (_is_class_names, "a list of texts"),
    "split": (_is_text, "text"),
    "split_sha256": (_is_text, "text"),
    "training": (_is_training, "the state of a training"),
}
"""Field -> whether a value is right, and in words what is."""

_RESUMABLE = {"optimizer": _STATE, "schedule": _STATE, "scaler": _STATE}
"""What a last checkpoint holds besides."""

_OPTIONAL: dict[str, _Check] = {
    "tracker_run_id": (lambda value: value == "" or is_file_name(value), "the id of a run"),
    "versions": _TEXTS,
    "parent_run": (lambda value: value == "" or is_file_name(value), "a name without folders"),
    "decisions": (_mapping(_is_weight), "a dict of dense tensors of real numbers"),
    "corrections_sha256": (_is_text, "text"),
}
_DEFAULTS: dict[str, Any] = {
    "tracker_run_id": "",
    "versions": {},
    "parent_run": "",
    "decisions": {},
    "corrections_sha256": "",
}
