"""The floors of the house: imports point down, also those for types and those inside of functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import polymask

PACKAGE = Path(polymask.__file__).parent
FLOORS = (
    ("cli", "__main__", "__init__", "words", "config_errors", "text_keys", "sweep_table"),
    ("studies", "sync", "convert"),
    (
        "runs",
        "run_claim",
        "run_ensemble",
        "run_export",
        "run_files",
        "run_parts",
        "run_plans",
        "run_record",
        "run_summary",
    ),
    ("run_config",),
    ("inference",),
    ("factories",),
    ("fitting",),
    ("training",),
    ("places",),
    ("trust",),
    ("families.*",),
    ("families.base",),
    ("reporting",),
    ("tracking",),
    ("data",),
    ("models",),
    ("losses",),
    ("metrics",),
    ("structures",),
    ("utils",),
    ("errors",),
)
"""From top to bottom."""
SHARED = ("base", "images", "network", "thresholds", "threshold_report")
"""Modules of `families` that several families stand on."""


def floor_of(module: str) -> int:
    """Return the number of a module's floor, from the top."""
    words = module.split(".")[1:] or ["__init__"]
    name = words[0]
    if name == "families":
        name = "families.base" if len(words) == 1 or words[1] in SHARED else "families.*"
    return next(number for number, names in enumerate(FLOORS) if name in names)


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        words = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(words[:-1] if words[-1] == "__init__" else words)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("polymask"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polymask"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


IMPORTS = {name: set(imported(tree)) - {name} for name, tree in MODULES.items()}


def test_every_module_stands_on_a_floor():
    assert all(isinstance(floor_of(name), int) for name in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    own = floor_of(module)
    upward = {
        other: f"{FLOORS[floor_of(other)]} above {FLOORS[own]}"
        for other in IMPORTS[module]
        if other != "polymask" and floor_of(other) < own
    }
    assert not upward


def test_families_do_not_know_each_other():
    for module, others in IMPORTS.items():
        words = module.split(".")
        if words[1:2] == ["families"] and len(words) > 2:
            known = {other.split(".")[2] for other in others if other.startswith("polymask.families.")}
            assert known <= {words[2], *SHARED}, module


def test_nothing_imports_in_a_circle():
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for other in sorted(IMPORTS.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


FAMILY_WORDS = re.compile(
    r"lesion|multitask|mask[ _]?r-?cnn|(?<![a-z])instances?(?![a-z])|object classes|multiclass|pre-?training"
    r"|reconstruct",
    re.IGNORECASE,
)
GENERAL = ("training", "inference", "reporting", "studies", "data", "factories", "fitting")


def test_what_all_families_share_has_no_word_of_one():
    shared = {
        path.relative_to(PACKAGE): path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
        if (part := path.relative_to(PACKAGE).parts[0].removesuffix(".py")).startswith("run")
        or part in GENERAL
    }
    assert len(shared) > 60
    found = [
        f"{path}: {line.strip()}"
        for path, text in shared.items()
        if path.parts[:2] not in (("data", "sources"), ("data", "demo"))
        for line in text.splitlines()
        if FAMILY_WORDS.search(line)
    ]
    assert not found


def test_words_of_a_family_are_seen_and_others_are_not():
    words = ["LesionTask", "mask_rcnn.py", "Mask R-CNN", "an instance of", "instance_table", "Instances"]
    words += ["pre-training", "Reconstruction"]
    assert all(FAMILY_WORDS.search(text) for text in words)
    assert not any(
        FAMILY_WORDS.search(text) for text in ("isinstance(value", "instantiate", "several classes")
    )


FAMILIES = sorted(path.name for path in (PACKAGE / "families").iterdir() if (path / "family.py").is_file())
FILES = ("data", "family", "loss", "predictions", "report", "scorer", "task")
"""Of every family; one whose task can be applied to new cases has an `application`, too."""


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_the_same_files(family):
    names = {path.stem for path in (PACKAGE / "families" / family).glob("*.py")}
    assert names >= set(FILES)
