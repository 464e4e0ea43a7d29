"""The command line: `polymask train|test|infer|… key=value …`, and the same behind the scripts in src/.

Nothing heavy is imported here: `--help` and `--cfg job` must answer at once.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from polymask.errors import UserError
from polymask.sweep_table import SweepJob, sweep_table
from polymask.text_keys import quote, quoted_overrides
from polymask.training.run_names import typed_name
from polymask.utils import interruption
from polymask.utils.outputs import discard_failed_start
from polymask.utils.paths import CONFIG_DIR, resolve
from polymask.words import check_pairs, joined_trackers, split_words


@dataclass(frozen=True)
class Command:
    """What a word on the command line runs.

    Attributes:
        module: Module with a function of the command's name (`_` for `-`), which takes the configuration.
        config: Name of the primary configuration.
        operands: Keys of the words without `=` that follow the command, in their order; a last one that ends
            in `*` takes all that are left.
        again: What to say when the user interrupts it, unless it gave an `interruption.advise` itself.
    """

    module: str
    config: str
    operands: tuple[str, ...] = ()
    again: str = "nothing was changed"


COMMANDS = {
    "train": Command("polymask.runs", "config"),
    "test": Command("polymask.runs", "config"),
    "infer": Command("polymask.runs", "infer", again="the same command goes on with it"),
    "baseline": Command("polymask.studies.baseline", "baseline", operands=("like",)),
    "analyze": Command("polymask.studies.commands", "analyze"),
    "compare": Command("polymask.studies.commands", "compare", operands=("run_a", "run_b", "more_runs*")),
    "summarize": Command("polymask.studies.commands", "summarize", operands=("runs*",)),
    "review": Command("polymask.studies.commands", "review", operands=("runs*",)),
    "export-encoder": Command("polymask.run_export", "export_encoder"),
    "export-model": Command("polymask.run_export", "export_model"),
    "convert": Command("polymask.convert", "convert", operands=("source", "target")),
    "sync": Command("polymask.sync", "sync", operands=("run_name",), again="what was not sent still waits"),
}

_USAGE = (
    f"usage: polymask {{{','.join(COMMANDS)}}} [key=value ...]   (polymask train --help shows the keys; "
    "baseline takes RUN, compare RUN_A RUN_B ..., summarize RUN ..., review RUN ..., convert SOURCE TARGET, "
    "sync RUN)"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake of the user ends as one line on standard error and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that the terminal lacks must not stop a run
            stream.reconfigure(errors="backslashreplace")
    name, *overrides = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        print(_USAGE, file=sys.stdout if name in ("-h", "--help") else sys.stderr)
        sys.exit(0 if name in ("-h", "--help") else 2)
    with interruption.interruptible():
        error: BaseException | None = None
        try:
            run(name, overrides)
        except BaseException as raised:
            error = raised
        if interruption.was_interrupted(error):  # whatever a library made of it
            print(f"interrupted; {interruption.advice() or COMMANDS[name].again}", file=sys.stderr)
            sys.exit(interruption.exit_status())
        if error is None:
            return
        line = _user_message(error)
        if line is None:
            raise error
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def run(name: str, overrides: Sequence[str]) -> Any:
    """Run one command under Hydra.

    Args:
        name: One of `COMMANDS`.
        overrides: The rest of the command line, such as `["epochs=3", "data=demo"]`.

    Returns:
        What the command's function returned; None for a sweep.

    Raises:
        UserError: A mistake of the user.
    """
    chosen = COMMANDS[name]
    flags, words, sweep = split_words(overrides, chosen.config)
    words = _with_operands(name, joined_trackers(words))
    check_pairs(words, chosen.config)
    overrides = quoted_overrides(words, sweep=sweep)
    sys.argv = [f"polymask {name}", *flags, *overrides]
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads of PyTorch wait for one another in a busy loop. Where other programs want the cores, too, a
        # short one is nearly twice as fast as the default, and elsewhere it costs nothing.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Hydra would shorten tracebacks and end with status 1; we tell mistakes from defects ourselves.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register_resolvers()
    results: list[Any] = []
    failures: list[UserError] = []
    entered: list[bool] = []
    jobs: list[SweepJob] = []

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=chosen.config)
    def command(cfg: DictConfig) -> Any:
        function = getattr(importlib.import_module(chosen.module), name.replace("-", "_"))
        entered.append(True)
        own = HydraConfig.get()
        in_sweep = own.mode == RunMode.MULTIRUN
        number = own.job.num if in_sweep else 0
        job = partial(SweepJob, number=number, overrides=list(own.overrides.task))
        try:
            _check_complete(cfg)
            result = function(cfg)
        except Exception as error:
            # Passing through Hydra it would print a second line. In a sweep that line says which job it was.
            if isinstance(error, UserError) and not in_sweep:
                discard_failed_start()
                failures.append(error)
                return None
            jobs.append(job(error=_user_message(error) or repr(error)))
            raise
        if in_sweep:
            jobs.append(job(result=result))
        else:
            results.append(result)
        return result.objective

    try:
        try:
            command()
        finally:
            if sweep and jobs:
                print(sweep_table(jobs))
    # Hydra answers flags that exclude one another with a ValueError.
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if entered:  # a defect in a run, not a mistake in the command line
            raise
        from polymask.config_errors import explain

        raise UserError(explain(error, chosen.config, [*flags, *overrides])) from error
    if failures:
        raise failures[0]
    return results[0] if results else None


def register_resolvers() -> None:
    """Make known what `config/` writes as `${project_root:}`, `${run_dir:…}` and `${equal:…,…}`."""
    OmegaConf.register_new_resolver("project_root", lambda: str(resolve("")), replace=True)
    OmegaConf.register_new_resolver("run_dir", _new_run_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("equal", operator.eq, replace=True)


def _with_operands(name: str, words: Sequence[str]) -> list[str]:
    """Return the command line with words such as the RUN_A of `compare RUN_A RUN_B` as key=value."""
    keys = COMMANDS[name].operands
    operands = [word for word in words if _is_operand(word)] if keys else []
    if not keys or not operands:
        return list(words)
    if len(operands) > len(keys) and not keys[-1].endswith("*"):
        raise UserError(
            f"polymask {name} takes {len(keys)} words ({', '.join(keys)}), not {len(operands)}: "
            f"{' '.join(operands)}. Everything else is key=value."
        )
    quoted = [quote(word) for word in operands]
    pairs = [f"{key}={word}" for key, word in zip(keys, quoted, strict=False) if not key.endswith("*")]
    if keys[-1].endswith("*") and len(quoted) >= len(keys):
        pairs.append(f"{keys[-1][:-1]}=[{','.join(quoted[len(keys) - 1 :])}]")
    return [*pairs, *(word for word in words if word not in operands)]


def _is_operand(word: str) -> bool:
    """Return whether a word is no key=value; a run may have a `=` in its name."""
    if "=" not in word:
        return not word.startswith(("~", "+"))
    name = typed_name(word)
    return "/" not in name and any(resolve("models/checkpoints").glob(f"{name}.pt"))


def _check_complete(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        example = "my_run" if missing[0].startswith("run") else "images/"
        raise UserError(f"{missing[0]}= is needed; add it to the command, e.g. {missing[0]}={example}")


def _new_run_dir(parent: str) -> str:
    """Create `parent/YYYY-MM-DD/HH-MM-SS` below the project root, with `_2`, `_3`, … when it exists."""
    moment = resolve(parent) / f"{datetime.now():%Y-%m-%d/%H-%M-%S}"
    moment.parent.mkdir(parents=True, exist_ok=True)
    number, folder = 1, moment
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = Path(f"{moment}_{number}")
        else:
            return str(folder)


def _user_message(error: BaseException) -> str | None:
    """Return one line for a mistake of the user, None for a defect."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__
    return None


if __name__ == "__main__":  # as the module that others import, of which there must not be two
    importlib.import_module("polymask.cli").main()
