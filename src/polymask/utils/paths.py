"""Where things lie: every relative path is meant from the project root."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def _find_root() -> Path:
    if given := os.environ.get("POLYMASK_ROOT"):
        return Path(given).resolve()
    checkout = _PACKAGE.parents[1]
    if (checkout / "config" / "config.yaml").is_file():
        return checkout
    return Path.cwd()


PROJECT_ROOT = _find_root()
"""`POLYMASK_ROOT`, else the checkout that holds this file, else (installed as a wheel) the current folder."""

CONFIG_DIR = next(
    (folder for folder in (_PACKAGE / "config", _PACKAGE.parents[1] / "config") if folder.is_dir()),
    _PACKAGE / "config",
)
"""The YAML tree: the copy inside an installed package, else that of the checkout."""


def resolve(path: str | Path) -> Path:
    """Return `path` as it is when absolute, else below the project root; `~` is expanded."""
    return PROJECT_ROOT / Path(path).expanduser()
