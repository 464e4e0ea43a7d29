"""Where a result comes from: code and library versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from polymask import __version__

_LIBRARIES = ("torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations", "numpy")


def git_commit() -> str:
    """Return the commit of the code, with `+changes` when files differ from it; "" when not under git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def library_versions() -> dict[str, str]:
    """Return the versions of Python, polymask and the libraries that results depend on."""
    found = {"python": platform.python_version(), "polymask": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def processor_name() -> str:
    """Return the name of the processor, "" when the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def licence_in(folder: Path) -> str:
    """Return name and first line of the licence file in a folder, "" when there is none."""
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.stem.upper() in ("LICENSE", "LICENCE", "COPYING"):
            text = path.read_text(encoding="utf-8", errors="replace")
            first = next((line.strip() for line in text.splitlines() if line.strip()), "")
            return f"{path.name}: {first[:200]}"
    return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
