"""Checkpoints of format 1, stored by the code of that time, still load, test, infer and resume as then.

They are held to what they gave when they were written (tests/fixtures/format1/README.md), so this speaks of
commands, files and results alone, and of no module that may move.
"""

from __future__ import annotations

import csv
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from instance_files import write_coco, write_label_maps
from lesion_files import write_lesions

from polymask import cli
from polymask.training.checkpoint import load_checkpoint

STORED = Path(__file__).parent / "fixtures" / "format1"
SECTIONS: dict[str, dict[str, Any]] = json.loads((STORED / "sections.json").read_text())
CPU = ["data.num_workers=0", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"]


@dataclass(frozen=True)
class Family:
    """A stored run: its name, its data below a project root, and who writes them."""

    run: str
    data: str
    write: Callable[[Path], Path]


FAMILIES = {
    "multitask": Family("lesions", "data/lesions", write_lesions),
    "instances": Family("objects", "data/objects", lambda folder: write_coco(folder, 24)),
    "unet_family": Family("unet", "data/label_maps", lambda folder: write_label_maps(folder, 24)),
}


@dataclass(frozen=True)
class Old:
    """A project with one stored run and its data, and what the run gave when it was stored."""

    root: Path
    run: str
    images: str
    expected: dict[str, dict[str, Any]]

    def checkpoint(self, end: str) -> Path:
        return self.root / "models" / "checkpoints" / f"{self.run}{end}"


@pytest.fixture(params=FAMILIES)
def old(request: pytest.FixtureRequest, project: Path) -> Old:
    family = FAMILIES[request.param]
    unpack(request.param, project)
    family.write(project / family.data)
    expected = json.loads((STORED / request.param / "expected.json").read_text())
    return Old(project, family.run, f"{family.data}/images", expected)


def unpack(family: str, root: Path) -> None:
    with tarfile.open(STORED / family / "checkpoints.tar.xz") as archive:
        archive.extractall(root / "models" / "checkpoints", filter="data")


def like(value: Any) -> Any:
    """What may stand for a stored value.

    Processors and versions of the libraries add in different orders. With other instruction sets and numbers
    of threads the stored values changed by 1e-6 of themselves; a pixel or an object that changes sides at a
    threshold weighs more.
    """
    if isinstance(value, str):
        return value
    return pytest.approx(math.nan if value is None else value, rel=1e-3, abs=1e-3, nan_ok=True)


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def rows(path: Path) -> Iterator[dict[str, float | str]]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield {name: number(text) for name, text in row.items()}


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare the keys that were stored; there may be more by now."""
    assert {key: found[key] for key in expected} == {key: like(value) for key, value in expected.items()}


def targets(node: Any) -> Iterator[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for child in children:
        yield from targets(child)


def report_of(old: Old) -> dict[str, Any]:
    """The losses and metrics of a test as its report has them; None where there is no value."""
    content = json.loads((old.root / "results/test" / old.run / "metrics.json").read_text())
    values = content["losses"] | {name: entry["value"] for name, entry in content["metrics"].items()}
    return {name: math.nan if value is None else value for name, value in values.items()}


def test_a_test_gives_the_stored_metrics(old: Old) -> None:
    cli.run("test", [f"run_name={old.run}"])
    check(report_of(old), old.expected["test"])


def test_inference_gives_the_stored_table(old: Old) -> None:
    expected = old.expected["infer"]
    (old.root / "files.txt").write_text("\n".join(expected))
    cli.run("infer", [f"run_name={old.run}", f"data.data_dir={old.images}", "data.file_list=files.txt", *CPU])
    table = {row["file"]: row for row in rows(old.root / "results/inference" / old.run / "predictions.csv")}
    assert table.keys() == expected.keys()
    for file, row in expected.items():
        check(table[file], row)


def test_a_resumed_run_goes_on_as_it_did(old: Old) -> None:
    split = load_checkpoint(old.checkpoint(".last.pt"))["split"]
    cli.run("train", ["resume=true", f"run_name={old.run}", "epochs=2", "test_after_training=false"])
    (file,) = (old.root / "outputs").glob("*/*/metrics.csv")
    first, second = rows(file)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    check(second, old.expected["epoch_2"])
    assert second["train/loss"] != first["train/loss"]
    resumed = load_checkpoint(old.checkpoint(".last.pt"))  # as this code writes it
    assert resumed["training"]["epoch"] == 2
    assert resumed["split"] == split
    assert load_checkpoint(old.checkpoint(".pt"))["training"]["epoch"] == resumed["training"]["best_epoch"]


@pytest.mark.parametrize("end", [".pt", ".last.pt"])
def test_what_a_checkpoint_was_built_of_is_found(old: Old, end: str) -> None:
    path = old.checkpoint(end)
    written = torch.load(path, weights_only=True)
    assert written["format"] == 1
    content = load_checkpoint(path)
    assert content["run_name"] == old.run
    assert content["model"].keys() == written["model"].keys()
    check_targets(content["config"], written["config"])


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of the stored checkpoint of masks and classes."""
    root = tmp_path_factory.mktemp("stored")
    unpack("multitask", root)
    return torch.load(root / "models" / "checkpoints" / "lesions.pt", weights_only=True)


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group, options in SECTIONS.items() for option in options]
)
def test_every_option_of_that_time_is_found(
    lesions: dict[str, Any], project: Path, group: str, option: str
) -> None:
    config = lesions["config"] | {group: SECTIONS[group][option]}
    torch.save(lesions | {"config": config}, project / "lesions.pt")
    check_targets(load_checkpoint(project / "lesions.pt")["config"][group], SECTIONS[group][option])


def check_targets(config: Any, written: Any) -> None:
    """Every constructor that was named is one of this code's, under whatever name it goes by now."""
    found = list(targets(config))
    assert len(found) == len(list(targets(written)))
    for target in found:
        assert callable(get_object(target)), target
