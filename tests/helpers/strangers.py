"""Checkpoints as a stranger may have changed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from polymask import cli


def checkpoint_of(root: Path, name: str = "tiny", *, whole: bool = False) -> dict[str, Any]:
    """Return the content of a last checkpoint; unless it is to be `whole`, without what makes it large."""
    return deepcopy(_checkpoint_of(root / "models" / "checkpoints" / f"{name}.last.pt", whole))


@cache  # hundreds of tests change one and the same
def _checkpoint_of(path: Path, whole: bool) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    small = {key: value for key, value in content["model"].items() if value.numel() <= 64}
    return {**content, "optimizer": {}, "model": content["model"] if whole else small}


def write_changed(
    project: Path, content: dict[str, Any], change: Callable[[dict[str, Any]], object], name: str = "evil"
) -> Path:
    """Write a changed checkpoint as the best and the last one of run `name` of a project.

    Args:
        project: Its root.
        content: An honest content.
        change: Changes the content, which calls itself `name`.
        name: Name of the files.

    Returns:
        The best checkpoint.
    """
    content = {
        **content,
        "run_name": name,
        "config": OmegaConf.to_container(OmegaConf.create(content["config"])),
    }
    change(content)
    folder = project / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for ending in (".pt", ".last.pt"):
        torch.save(content, folder / f"{name}{ending}")
    return folder / f"{name}.pt"


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested dicts; the dicts on the way are made."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(config.get(parent), dict):
            config[parent] = {}
        config = config[parent]
    config[last] = value


def run(name: str, *overrides: str) -> Any:
    """Run a command in this process."""
    return cli.run(name, overrides)


def entries(path: Path, images: Path) -> dict[str, Sequence[str]]:
    """Return the command lines by which a checkpoint of `models/checkpoints` becomes objects."""
    name = path.stem
    return {
        "test": ["test", f"run_name={name}"],
        "infer": ["infer", f"run_name={path}", f"data.data_dir={images}", "data.num_workers=0"],
        "resume": ["train", "resume=true", f"run_name={name}", "epochs=3"],
        "init_from": [
            "train",
            "run_name=fresh",
            f"init_from={path}",
            f"data.data_dir={images.parent}",
            "data.classes=[MEL,NV,BKL]",
            "data.image_size=[32,48]",
            "data.num_workers=0",
            "model.encoder_name=tu-test_resnet",
            "+model.decoder_channels=[32,16,16,8,8]",
            "tracker=none",
        ],
        "compare": ["compare", name, name, "tracker=none"],
        "summarize": ["summarize", name, "tracker=none"],
        "review": ["review", name, "tracker=none"],
    }
