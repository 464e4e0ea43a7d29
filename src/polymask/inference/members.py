"""Which runs a name, a list or a pattern stands for, and whether they may be one ensemble."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from polymask.data.images import parse_image_size
from polymask.errors import UserError
from polymask.factories import Rebuilt, build_family, rebuild
from polymask.families.base import Application, Family
from polymask.training.checkpoint import CheckpointFolder, load_checkpoint
from polymask.utils.paths import resolve

Runs = str | Path | Sequence[str | Path]
"""The name of a run, the path of a checkpoint, a pattern with `*` or `?`; or several of them."""

ATTRIBUTE_TABLE = "data.attribute_table"
_NAME_LETTERS = 40  # beyond, an ensemble does not name all its members


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run with what applies it to new cases.

    Attributes:
        run_name: Its name.
        path: Its checkpoint.
        run: What that was written from.
        application: Applies its task; None where the family has nothing to apply.
    """

    run_name: str
    path: Path
    run: Rebuilt
    application: Application | None

    @property
    def grid(self) -> tuple[int, int]:
        """Return (height, width) of the network's input, nothing where images keep their own sizes."""
        size = self.run.cfg.data.get("image_size")
        if OmegaConf.is_list(size):
            size = list(size)
        return (0, 0) if size is None else parse_image_size(size)


def find_checkpoints(runs: Runs | None, folder: CheckpointFolder, *, files: bool = True) -> list[Path]:
    """Return the checkpoints of runs; for None that of the newest run.

    Args:
        runs: See `Runs`; also a list as text, `[fold0,fold1]`.
        folder: Where runs leave theirs.
        files: Whether a word that ends in `.pt` is the path of a file.

    Raises:
        UserError: There is no such run, or one is named twice.
    """
    if isinstance(runs, str) and runs.startswith("[") and runs.endswith("]"):
        runs = [word.strip().strip("'\"") for word in runs[1:-1].split(",") if word.strip()]
    if runs is None or isinstance(runs, str | Path):
        return _found(runs, folder, files=files)
    paths = [path for run in runs for path in _found(run, folder, files=files)]
    if not paths:
        raise UserError("run_name=[] names no run; give one or several: run_name=[fold0,fold1].")
    typed = [str(run) for run in runs]
    twice = next((run for run in typed if typed.count(run) > 1), None)
    if twice is not None:
        raise UserError(f"run_name names {twice} twice; an ensemble has each run once.")
    return list(dict.fromkeys(paths))  # a name and a pattern may both stand for a run


def _found(run: str | Path | None, folder: CheckpointFolder, *, files: bool) -> list[Path]:
    name = None if run is None else str(run)
    if name is not None and files and name.endswith((".pt", ".pth")):
        return [resolve(name)]
    if name is not None and any(letter in name for letter in "*?"):
        return [folder.best(found) for found in folder.matching(name)]
    return [folder.find(name)]


def read_members(paths: Sequence[Path], options: Mapping[str, Any]) -> list[Member]:
    """Return checkpoints as what applies them, in the order that they have in an ensemble.

    Args:
        paths: The checkpoints.
        options: See `Predictor.from_checkpoint`.

    Raises:
        UserError: One cannot be read, predicts nothing of new images, or an option is of no use to it; or
            several cannot be one ensemble.
    """
    contents = [load_checkpoint(path) for path in paths]
    takes_table = [bool(content["config"]["data"].get("metadata")) for content in contents]
    members = []
    for path, content, takes in zip(paths, contents, takes_table, strict=True):
        # What is known of the persons is for those members that ask for it, if there is one.
        not_own = () if takes or not any(takes_table) else (ATTRIBUTE_TABLE, ATTRIBUTE_TABLE.split(".")[1])
        members.append(_read(path, content, {key: options[key] for key in options if key not in not_own}))
    members = in_order(members)
    if len(members) > 1:
        check_can_merge(members)
        check_decided(members, options)
        check_unexplained(options.get("explain"))
    return members


def _read(path: Path, content: Mapping[str, Any], options: Mapping[str, Any]) -> Member:
    run = rebuild(content)
    chosen = _own_options(options, run.family.options, path.stem)
    application = run.family.application(content["config"]["data"], chosen)
    if application is None:
        raise UserError(
            f"{path.stem} predicts nothing of new images; take another run, or start one from it with "
            f"init_from={path.stem}."
        )
    return Member(run_name=content["run_name"], path=path, run=run, application=application)


def undecided_family(run: Rebuilt, options: Mapping[str, Any] | None = None) -> Family:
    """Return the family of a run as it is for several together: no validation samples have decided anything.

    Calibration is none of its decisions: each member calibrates its own probabilities before the mean.

    Args:
        run: The run.
        options: Values in the place of its own, by key of the configuration.
    """
    cfg = copy.deepcopy(run.cfg)
    if "calibration" in cfg.task:
        cfg.task.calibration = None
    for key, value in (options or {}).items():
        OmegaConf.update(cfg, key, value)
    return build_family(cfg, run.content["class_names"])


def check_decided(members: Sequence[Member], options: Mapping[str, Any]) -> None:
    """Raise UserError when validation samples decided something for a single network."""
    run = members[0].run
    chosen = _own_options(options, run.family.options, members[0].run_name)
    own = {key: value for key, value in chosen.items() if OmegaConf.select(run.cfg, key) is not None}
    waits = undecided_family(run, own).undecided
    if waits.partition("=")[0] in run.family.options:
        raise UserError(
            f"{waits} was decided for {members[0].run_name} alone; give a value for all members together: "
            "their test decides it where they share validation samples."
        )


def in_order(members: Sequence[Member]) -> list[Member]:
    """Return members with the finest grid first, then by name, so that no order of theirs changes a sum.

    Masks of the ensemble are measured on the grid of the first, and its values of options count.
    """
    return sorted(members, key=lambda member: (-member.grid[0] * member.grid[1], member.run_name))


def check_agreement(members: Sequence[Member]) -> None:
    """Raise UserError when two runs do not predict the same."""
    first = members[0]
    for other in members[1:]:
        theirs = other.run.family.answers
        for what, value in first.run.family.answers.items():
            if theirs.get(what) != value:
                raise UserError(
                    f"{first.run_name} and {other.run_name} differ in {what} ({value}; {theirs.get(what)}); "
                    "the members of an ensemble must agree in it."
                )


def check_can_merge(members: Sequence[Member]) -> None:
    """Raise UserError when two runs do not predict the same, or something that has no mean."""
    check_agreement(members)
    kind = type(members[0].application)
    if not issubclass(kind, Application) or kind.merge is Application.merge:
        names = " and ".join(member.run_name for member in members[:2])
        predicted = members[0].run.family.answers["what they predict"]
        raise UserError(
            f"{names} cannot be one ensemble: there is no sound mean of what they predict ({predicted}); "
            "name one run."
        )


def ensemble_name(names: Sequence[str], *, out_of_fold: bool = False) -> str:
    """Return the name of an ensemble: that of its members, or what these have in common and their number.

    It holds a `~`, which no run has in its name, so that neither takes the place of the other's results.
    """
    names = sorted(names)
    kind = "out_of_fold" if out_of_fold else "ensemble"
    joined = "~".join(names)
    if len(joined) <= _NAME_LETTERS:
        return f"{joined}~{kind}" if out_of_fold or len(names) == 1 else joined
    # Sorted, so that what the first and the last begin with, all do.
    alike = zip(names[0], names[-1], strict=False)
    common = "".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], alike))
    common = (common.rstrip("_-.+=,") or names[0])[:_NAME_LETTERS]
    # The hash tells as many other members apart, whose results must not take the place of these.
    return f"{common}~{kind}{len(names)}_{sha256(joined.encode()).hexdigest()[:6]}"


def check_unexplained(explain: Any) -> None:
    """Raise UserError when it shall be shown where the classes of several networks together were seen."""
    if explain:
        raise UserError(
            "explain=true shows where one network looked, and several looked at different places; leave it "
            "out (explain=false), or name one run."
        )


def _own_options(options: Mapping[str, Any], keys: Sequence[str], run: str) -> dict[str, Any]:
    """Return the options that were given, by their whole keys.

    Raises:
        UserError: One is none of `keys`, those of the run's family.
    """
    whole_keys = {key.rpartition(".")[2]: key for key in keys}
    chosen = {}
    for name, value in options.items():
        last = name.rpartition(".")[2]
        if value is None:  # but false and 0 are values
            continue
        if last not in whole_keys:
            raise UserError(
                f"{name}={json.dumps(value)} is of no use to {run}, which takes {', '.join(sorted(keys))}; "
                "leave it out."
            )
        chosen[whole_keys[last]] = value
    return chosen
