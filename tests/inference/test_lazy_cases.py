"""A family whose cases fill the memory: they stay on disk and are predicted slice by slice."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stub_task import StubTask

from polymask.errors import UserError
from polymask.families.base import Application, Batch
from polymask.inference.folder import Summary, predict_files
from polymask.inference.inputs import find_cases
from polymask.inference.predictor import Predictor

SHAPES = {"a.npy": (3, 4, 5), "sub/b.npy": (7, 2, 2), "sub/c.npy": (1, 6, 3)}


class Stacks(Application):
    """Sums each slice of a stack, which is mapped into memory and not read."""

    folders, columns, settings, batch_size = ("sums",), ("num_slices",), {}, 1

    def __init__(self) -> None:
        self.largest_batch = 0

    def find(self, folder: Path) -> list[Path]:
        return sorted(path.relative_to(folder) for path in folder.rglob("*.npy"))

    def read(self, source: Any, *, draw: bool = False) -> tuple[np.ndarray, tuple[int, ...]]:
        try:
            stack = source if isinstance(source, np.ndarray) else np.load(source, mmap_mode="r")
        except ValueError as error:
            raise UserError(f"cannot read {source}") from error
        return stack, stack.shape

    def collate(self, ids: Sequence[str], inputs: Sequence[np.ndarray]) -> Batch:
        return {"ids": list(ids), "stacks": list(inputs)}

    def predict(self, task: StubTask, batch: Batch) -> list[np.ndarray]:
        self.largest_batch = max(self.largest_batch, len(batch["ids"]))
        assert not torch.is_grad_enabled()
        return [np.array([each.sum() for each in stack]) for stack in batch["stacks"]]

    def result(self, prediction: np.ndarray, case: tuple[int, ...]) -> list[float]:
        assert len(prediction) == case[0]
        return prediction.tolist()

    def write(self, folder: Path, name: Path, prediction: Any, case: Any) -> dict[str, Any]:
        path = folder / "sums" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(self.result(prediction, case)))
        return {"num_slices": case[0]}

    def finish(self, folder: Path) -> None:
        (folder / "all.txt").write_text(
            "\n".join(sorted(p.read_text() for p in folder.rglob("sums/**/*.txt")))
        )


@pytest.fixture
def stacks(tmp_path: Path) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    made = {name: draw.normal(size=shape) for name, shape in SHAPES.items()}
    for name, stack in made.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / name, stack)
    return made


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    (tmp_path / "run.pt").write_bytes(b"weights")
    return Predictor(
        task=StubTask(),
        application=Stacks(),
        run_name="run",
        path=tmp_path / "run.pt",
        device="cpu",
        precision="fp32",
    )


def test_files_of_any_size(stacks: dict[str, np.ndarray], predictor: Predictor, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "bad.npy").write_text("no stack")
    files = find_cases(predictor.application, source)
    summary = predict_files(predictor, source, files, out, num_workers=0)
    assert summary == Summary(predicted=3, failed={"bad.npy": f"cannot read {source / 'bad.npy'}"})
    assert predictor.application.largest_batch == 1
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert {row["file"]: int(row["num_slices"]) for row in rows} == {k: s[0] for k, s in SHAPES.items()}
    for name, stack in stacks.items():
        found = (out / "sums" / name).with_suffix(".txt").read_text()
        np.testing.assert_allclose([float(v) for v in found[1:-1].split(",")], stack.sum(axis=(1, 2)))
    assert len((out / "all.txt").read_text().splitlines()) == 3


def test_one_result_per_case_in_python(
    stacks: dict[str, np.ndarray], predictor: Predictor, tmp_path: Path
) -> None:
    results = predictor.predict([tmp_path / "in" / "a.npy", stacks["sub/b.npy"]])
    for result, name in zip(results, ("a.npy", "sub/b.npy"), strict=True):
        np.testing.assert_allclose(result, stacks[name].sum(axis=(1, 2)))
