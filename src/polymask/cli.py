"""The command line: `polymask train|test|infer key=value …`, and the same behind the scripts in src/.

Nothing heavy is imported here: `--help` and `--cfg job` must answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from polymask.errors import UserError
from polymask.utils.paths import CONFIG_DIR, resolve

_USAGE = "usage: polymask {train,test,infer} [key=value ...]   (polymask train --help shows the keys)"

COMMANDS = {"train": "config", "test": "config", "infer": "infer"}
"""Name of each run function and its primary configuration."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake of the user ends as one line on standard error and exit status 2."""
    name, *overrides = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        print(_USAGE, file=sys.stdout if name in ("-h", "--help") else sys.stderr)
        sys.exit(0 if name in ("-h", "--help") else 2)
    try:
        run(name, overrides)
    except KeyboardInterrupt:
        again = {"train": "resume=true goes on with it", "infer": "the same command goes on with it"}
        print(f"interrupted; {again.get(name, 'nothing was changed')}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _user_message(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def run(name: str, overrides: Sequence[str]) -> Any:
    """Run one command under Hydra.

    Args:
        name: One of `COMMANDS`.
        overrides: The rest of the command line, such as `["epochs=3", "data=demo"]`.

    Returns:
        What the function of that name in `polymask.runs` returned; None for a sweep.

    Raises:
        UserError: A mistake of the user.
    """
    sys.argv = [f"polymask {name}", *overrides]
    # Hydra would shorten tracebacks and end with status 1; we tell mistakes from defects ourselves.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    OmegaConf.register_new_resolver("project_root", lambda: str(resolve("")), replace=True)
    OmegaConf.register_new_resolver("run_dir", _new_run_dir, replace=True, use_cache=True)
    results: list[Any] = []
    failures: list[UserError] = []
    entered: list[bool] = []

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=COMMANDS[name])
    def command(cfg: DictConfig) -> Any:
        from polymask import runs

        entered.append(True)
        try:
            _check_complete(cfg)
            result = getattr(runs, name)(cfg)
        except UserError as error:
            # Passing through Hydra it would print a second line. In a sweep that line says which job it was.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)
            return None
        results.append(result)
        return result.objective

    try:
        command()
    except (HydraException, OmegaConfBaseException) as error:
        if entered:  # a defect in a run, not a mistake in the command line
            raise
        from polymask.config_errors import explain

        raise UserError(explain(error, COMMANDS[name], overrides)) from error
    if failures:
        raise failures[0]
    return results[0] if len(results) == 1 else None


def _check_complete(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]}= is needed; add it to the command, e.g. {missing[0]}=images/")


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
