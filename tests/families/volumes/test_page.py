"""The commands of the page of this family."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from configs import composed

from polymask.models.slices.fusion import build_fusion
from polymask.run_config import plain

PAGE = (Path(__file__).parents[3] / "docs" / "volumes.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python src/train\.py (?:-m )?([^#\n]+)", PAGE, re.MULTILINE)


def runs(command: str) -> list[list[str]]:
    """Return the overrides of each run of a command, a sweep among them; seeds tell nothing."""
    result: list[list[str]] = [[]]
    for word in shlex.split(command):
        key, _, value = word.partition("=")
        if key in ("seed", "data.data_dir"):
            continue
        values = [value] if value.startswith("[") else value.split(",")
        result = [[*run, f"{key}={one}"] for run in result for one in values]
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_a_training_of_the_page_can_be_composed(command: str) -> None:
    for overrides in runs(command):
        cfg = composed(*overrides)
        build_fusion(plain(cfg.model)["fusion"], slices=cfg.data.slices, channels=8)


def test_the_study_has_all_its_rows() -> None:
    study = PAGE[PAGE.index("## Which fusion") :]
    trained = [composed(*run) for command in COMMANDS if command in study for run in runs(command)]
    names = {(cfg.model.fusion.name, cfg.model.fusion.init or "centre", cfg.data.slices) for cfg in trained}
    assert {("slice_mlp", init, 3) for init in ("centre", "mean", "gaussian")} <= names
    assert {("slice_mlp", "centre", 5), ("centre", "centre", 3), ("pixel_attention", "centre", 3)} <= names
    assert {("level_mlp", "centre", 3), ("level_conv", "centre", 3)} <= names
    versions = {cfg.model.fusion.version for cfg in trained if cfg.model.fusion.name == "window_mlp"}
    assert versions == {1, 2}
