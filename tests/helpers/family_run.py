"""The tiny run that the tests of a family look at, and what they do with it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_worker import (
    BEST,
    LAST,
    RUN,
    WORLD_SIZE,
    application_of,
    evaluate,
    evaluate_as,
    free_port,
    infer_and_be_killed,
    start,
)
from torch import Tensor

from polymask import cli
from polymask.data.module import DataModule
from polymask.data.splits.split import split_from_csv
from polymask.factories import Rebuilt, rebuild
from polymask.families.base import Prediction, Scorer, Task
from polymask.reporting.course import Course
from polymask.runs import TrainResult
from polymask.structures.samples import Rows
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths

EPOCHS = 3
SMALL = [
    "data.num_workers=0",
    "data.cache_dir=null",
    "data.fractions=[0.4,0.2,0.4]",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.threads=1",
    "trainer.ema_decay=0.5",
    "tracker=none",
    "test_after_training=false",
    f"epochs={EPOCHS}",
    f"run_name={RUN}",
]
TIMES = ("train/images_per_second", "epoch_seconds")
CPU = ["trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """The tiny run of a family.

    Attributes:
        options: Of its training: data, network and loss. An epoch takes two batches or more and a second,
            five samples or more are tested, and something is found in them.
        cases: Folder with a few cases more than `KILLED_AT`, where the family has an application.
        losses_of_batches: Whether a sample's losses depend on the samples beside it; only where the
            family's own words say so.
    """

    options: Sequence[str]
    cases: Path | None = None
    losses_of_batches: bool = False


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The run.

    Attributes:
        root: Root of its project.
        result: What the training returned; its task holds the weights of the last step, no average.
        best: What its best checkpoint was written from.
        last: What its last one was.
        task: The task of the best checkpoint, prepared.
        data: The data set.
    """

    root: Path
    result: TrainResult
    best: Rebuilt
    last: Rebuilt
    task: Task
    data: DataModule

    @property
    def scorer(self) -> Scorer:
        return self.best.family.scorer

    @property
    def course(self) -> Course:
        training = self.last.content["training"]
        return Course(history=training["history"], best_epoch=training["best_epoch"])


class FamilyRun:
    """The fixtures: each is made once for all tests of a family."""

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        raise NotImplementedError("a fixture `example` says what the family learns from")

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, example: Example, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
        root = tmp_path_factory.mktemp("whole")
        with project_in(root):
            result = cli.run("train", [*example.options, *SMALL])
            best, last = (rebuild(load_checkpoint(root / path)) for path in (BEST, LAST))
            data = best.build_data(split=split_from_csv(best.content["split"]))
            yield Trained(root=root, result=result, best=best, last=last, task=best.build_task(), data=data)

    @pytest.fixture(scope="class")
    @classmethod
    def predictions(cls) -> list[Prediction]:
        """Filled by `rows`."""
        return []

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls, trained: Trained, predictions: list[Prediction]) -> Rows:
        """The rows of the test samples, loaded in one process in batches of the usual size."""
        return evaluate(trained.best, trained.task, consume=predictions.extend)

    @pytest.fixture(scope="class")
    @classmethod
    def others(cls, example: Example, trained: Trained) -> Path:
        """What other processes left: rows of an evaluation in `{rank}.npz`, an inference in `killed`."""
        folder = trained.root / "others"
        folder.mkdir()
        port = free_port()
        ranks = [start(evaluate_as, rank, port, folder / f"{rank}.npz") for rank in range(WORLD_SIZE)]
        for process in ranks:
            process.join(120)
        assert [process.exitcode for process in ranks] == [0] * WORLD_SIZE
        if application_of(trained.best) is not None:
            options = infer_options(example, folder / "killed")
            table = folder / "killed" / RUN / "predictions.partial.csv"
            process = start(infer_and_be_killed, options, table)
            process.join(120)
            assert process.exitcode == -signal.SIGKILL
        return folder


@contextmanager
def project_in(root: Path) -> Iterator[None]:
    """Let commands run in a project root, and leave no trace of them in this process."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        patch.setattr(sys, "argv", sys.argv)  # a run under Hydra replaces it
        patch.setenv("HYDRA_FULL_ERROR", "1")
        yield
    torch.set_num_threads(threads)


def infer_options(example: Example, folder: Path) -> list[str]:
    """Return the command line of an inference.

    One case at a time: wherever it is interrupted, the batches are the same, and so is the rounding.
    """
    assert example.cases is not None, "a family with an application has an example with cases"
    options = [f"run_name={RUN}", f"data.data_dir={example.cases}", f"local_save_dir={folder}"]
    return [*options, "data.batch_size=1", "data.num_workers=0", *CPU]


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file; what a kill left under a hidden, temporary name does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def plain(value: Any) -> Any:
    """Return nested containers with arrays for tensors and without times."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items() if name not in TIMES}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.numpy() if isinstance(value, Tensor) else value


def assert_close(found: Rows, expected: Rows) -> None:
    """Compare rows of other batches.

    For another number of images, libraries add in another order. Of the seven digits of float32 a
    network keeps five. A pixel that is nearer to a threshold than that changes sides, so whole numbers
    may move by a thousandth of their sum: of small counts, not at all.
    """
    for name, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        elif values.dtype.kind in "iub":
            moved = np.abs(found[name].astype(np.int64) - values.astype(np.int64)).sum()
            assert moved <= 1e-3 * np.abs(values.astype(np.int64)).sum(), name
        else:
            np.testing.assert_array_equal(found[name], values)
