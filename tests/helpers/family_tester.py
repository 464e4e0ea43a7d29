"""What every family keeps to. Its test file says what to learn from, and inherits all the tests:

    class TestPets(FamilyTester):
        @pytest.fixture(scope="class")
        @classmethod
        def example(cls, tmp_path_factory):
            folder = write_pets(tmp_path_factory.mktemp("pets"))
            return Example(options=["task=pets", f"data.data_dir={folder}"], cases=folder / "images")

One tiny run is trained, and all tests look at it. None knows the family: each compares what it gives
with what another way must give, or with what lies on disk. Tests of an application are skipped for a family
without one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import family_worker
import numpy as np
import pandas as pd
import pytest
import torch
from family_worker import BEST, KILLED_AT, RUN, WORLD_SIZE, application_of, evaluate
from torch import Tensor

import polymask
from polymask import cli
from polymask.data.module import DataModule
from polymask.data.splits.split import split_from_csv
from polymask.factories import Rebuilt, build_task, rebuild
from polymask.families.base import Application, Family, Prediction, Report, Scorer, Task
from polymask.reporting.course import Course
from polymask.reporting.rows import read_samples
from polymask.runs import TrainResult
from polymask.structures.samples import Rows
from polymask.training.checkpoint import inference_weights, load_checkpoint, run_record, save_checkpoint
from polymask.utils import paths

SOURCE = Path(polymask.__file__).parents[1]
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
CPU = ["trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """The tiny run of a family.

    Attributes:
        options: Of its training: the data, the network, the loss. Two batches or more per epoch, five test
            samples or more; seconds of training.
        cases: Folder with more than `KILLED_AT` cases, where the family has an application.
        losses_of_batches: Whether a sample's losses depend on the samples beside it, as the family says in
            words.
    """

    options: Sequence[str]
    cases: Path | None = None
    losses_of_batches: bool = False


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The run.

    Attributes:
        root: Root of its project.
        result: What the training returned; its task holds the weights of the last step, not their average.
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


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2
class FamilyTester:
    """All tests of a family; see the module."""

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        raise NotImplementedError("a fixture `example` says what the family learns from")

    def check_result(self, result: Any, folder: Path, name: str, row: Mapping[str, Any]) -> None:
        """Compare what `Predictor.predict` returned with the files of the same case, and with its row.

        Args:
            result: The result.
            folder: Folder of the inference.
            name: Of the case, without suffix.
            row: Of `predictions.csv`.
        """
        raise NotImplementedError("check_result reads the files that the application writes")

    def ids(self, data: DataModule, subset: str) -> list[str]:
        """Return the ids of what is evaluated in a subset, sorted: its samples, or whole cases of several."""
        return sorted(data.split.subsets[subset])

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, example: Example, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
        root = tmp_path_factory.mktemp("whole")
        with project_in(root):
            result = cli.run("train", [*example.options, *SMALL])
            best, last = (
                rebuild(load_checkpoint(root / path)) for path in (BEST, BEST.with_suffix(".last.pt"))
            )
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

    # Losses and parameters

    @pytest.fixture(scope="class")
    @classmethod
    def losses(cls, trained: Trained) -> tuple[Task, dict[str, Tensor]]:
        """A task in training and what its first step returned, with gradients."""
        task = trained.best.build_task(class_counts=trained.data.class_counts("train"))
        task.start_epoch(EPOCHS)
        losses = task(next(iter(trained.data.train_loader())))
        losses["loss"].backward()
        return task, losses

    def test_a_training_step_gives_scalars_and_one_graph(
        self, losses: tuple[Task, dict[str, Tensor]]
    ) -> None:
        values = losses[1]
        assert values["loss"].requires_grad
        assert [name for name, value in values.items() if value.requires_grad] == ["loss"]
        assert all(value.shape == () and value.isfinite() for value in values.values()), values

    def test_groups_hold_each_parameter_once_and_every_gradient_arrives(
        self, losses: tuple[Task, dict[str, Tensor]]
    ) -> None:
        task = losses[0]
        names = {parameter: name for name, parameter in task.named_parameters()}
        groups = task.parameter_groups()
        assert groups.keys() == {"encoder", "rest"}
        grouped = [names[parameter] for group in groups.values() for parameter in group]
        trained = sorted(names[parameter] for parameter in names if parameter.requires_grad)
        assert sorted(name for name in grouped if task.get_parameter(name).requires_grad) == trained
        assert len(grouped) == len(set(grouped))
        gradients = {name: task.get_parameter(name).grad for name in trained}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        for group in filter(None, groups.values()):  # a graph of zeros would have arrived, too
            assert any(
                gradients[names[parameter]].any() for parameter in group if names[parameter] in gradients
            )

    # Rows and numbers

    def test_there_is_one_row_per_sample_sorted_by_id(
        self, trained: Trained, rows: Rows, predictions: list[Prediction]
    ) -> None:
        expected = self.ids(trained.data, "test")
        assert len(expected) > 4
        assert rows["ids"].tolist() == expected
        assert sorted(prediction.id for prediction in predictions) == expected
        assert {name: len(values) for name, values in rows.items()} == dict.fromkeys(rows, len(expected))

    def test_the_epochs_metrics_are_those_of_the_scorer(self, trained: Trained) -> None:
        logged = trained.last.content["training"]["history"][-1]
        task = trained.last.build_task()
        values = trained.scorer.point_estimates(evaluate(trained.last, task, "val"))
        found = {
            name.removeprefix("val/"): value for name, value in logged.items() if name.startswith("val/")
        }
        assert task.monitor in logged
        assert found == pytest.approx(values, rel=1e-6, nan_ok=True)

    def test_weights_say_how_often_a_sample_counts(self, trained: Trained, rows: Rows) -> None:
        number, scorer = len(rows["ids"]), trained.scorer
        each, ones = np.eye(number), np.ones((2, number))
        everything = list(range(number))
        expected = [everything, everything]
        expected += [everything[:out] + everything[out + 1 :] for out in everything]
        expected += [[*everything, twice] for twice in everything]
        weighted = scorer.metrics(rows, np.concatenate([ones, 1 - each, 1 + each]), per_class=True)
        for place, chosen in enumerate(expected):
            plain = scorer.metrics({name: values[chosen] for name, values in rows.items()}, per_class=True)
            found = {name: values[place] for name, values in weighted.items()}
            single = {name: values[0] for name, values in plain.items()}
            # A class that lost its only sample may be gone from the plain metrics; it has no value then.
            assert {name: value for name, value in found.items() if name in single} == pytest.approx(
                single, rel=1e-6, abs=1e-9, nan_ok=True
            ), chosen
            assert all(np.isnan(found[name]) for name in found.keys() - single.keys()), chosen

    def test_scores_and_truth_have_a_row_per_sample(self, trained: Trained, rows: Rows) -> None:
        number, scorer = len(rows["ids"]), trained.scorer
        scores = scorer.scores(rows)
        assert scores
        for name, values in scores.items():
            assert values.shape == (number,), name
            assert values.dtype.kind == "f", name
        torch.manual_seed(1)
        other = build_task(trained.best.cfg, trained.best.family, pretrained=False)
        others = evaluate(trained.best, other)
        assert any(not np.array_equal(values, others[name]) for name, values in rows.items())
        for same_grid in (False, True):
            truth = scorer.truth(rows, same_grid=same_grid)
            assert all(len(values) == number for values in truth.values())
            np.testing.assert_equal(scorer.truth(others, same_grid=same_grid), truth)

    def test_what_is_wanted_first_is_measured(self, trained: Trained, rows: Rows) -> None:
        values, headline = trained.scorer.point_estimates(rows), trained.best.family.headline
        assert set(headline) <= values.keys()
        assert abs(values[headline[0]]) > 0, "from an example in which nothing is found, nothing is learned"

    # What must not matter

    @pytest.mark.parametrize(("size", "backwards"), [(1, False), (3, True), (1000, False)])
    def test_size_and_order_of_batches_do_not_matter(
        self, example: Example, trained: Trained, rows: Rows, size: int, backwards: bool
    ) -> None:
        options = {"eval_batch_size": size}
        found = evaluate(trained.best, trained.task, data_options=options, backwards=backwards)
        compared = [n for n in rows if not (example.losses_of_batches and n.startswith("loss"))]
        assert found.keys() == rows.keys()
        assert_close(*({name: each[name] for name in compared} for each in (found, rows)))

    def test_order_of_the_same_batches_does_not_matter(self, trained: Trained) -> None:
        options = {"eval_batch_size": 1}
        forwards, backwards = (
            evaluate(trained.best, trained.task, data_options=options, backwards=way) for way in (False, True)
        )
        np.testing.assert_equal(backwards, forwards)

    def test_number_of_loader_processes_does_not_matter(self, trained: Trained, rows: Rows) -> None:
        np.testing.assert_equal(evaluate(trained.best, trained.task, data_options={"num_workers": 2}), rows)

    @pytest.mark.parametrize("rank", range(WORLD_SIZE))
    def test_number_of_processes_does_not_matter(self, others: Path, rows: Rows, rank: int) -> None:
        with np.load(others / f"{rank}.npz") as found:
            np.testing.assert_equal(dict(found), rows)

    # Report

    @pytest.fixture(scope="class")
    @classmethod
    def report(cls, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Report:
        """A report of the test, finished, of this process; the run wrote its own."""
        folder = tmp_path_factory.mktemp("report") / RUN
        folder.mkdir()
        report = trained.best.family.report(folder, trained.data)
        rows = evaluate(trained.best, trained.task, consume=report.add)
        lines = report.finish(rows, trained.course)
        assert lines
        return report

    def test_a_report_is_written_whole(self, trained: Trained, rows: Rows, report: Any) -> None:
        names = {path.name for path in report.folder.iterdir()}
        assert {"metrics.json", "samples.npz", "training_curves.png", *report.bulk_folders} <= names
        assert list(report.folder.rglob(".*")) == []  # nothing under a temporary name
        for name in report.bulk_folders:
            assert len(list((report.folder / name).iterdir())) == len(rows["ids"])
        stored, groups = read_samples(report.folder)
        np.testing.assert_equal(stored, rows)
        assert groups == trained.data.groups(rows["ids"].tolist())
        content = json.loads((report.folder / "metrics.json").read_text())
        written = {name: entry["value"] for name, entry in content["metrics"].items()} | content["losses"]
        expected = trained.scorer.point_estimates(rows)
        for name in expected.keys() - trained.scorer.counts(rows).keys():
            value = np.nan if written[name] is None else written[name]
            assert value == pytest.approx(expected[name], nan_ok=True), name

    def test_a_report_built_anew_draws_the_same_pictures(
        self, trained: Trained, rows: Rows, report: Any
    ) -> None:
        before = files_below(report.folder)
        pictures = [report.picture(id_) for id_ in rows["ids"].tolist()]
        run = rebuild(load_checkpoint(trained.root / BEST))
        later = run.family.report(report.folder, run.build_data(split=split_from_csv(run.content["split"])))
        for id_, picture in zip(rows["ids"].tolist(), pictures, strict=True):
            assert picture.dtype == np.uint8
            assert picture.shape == (*picture.shape[:2], 3)
            assert picture.std() > 5
            np.testing.assert_array_equal(later.picture(id_), picture)
        assert len({picture.tobytes() for picture in pictures}) == len(pictures)
        assert files_below(report.folder) == before

    # Application

    @pytest.fixture(scope="class")
    @classmethod
    def application(cls, trained: Trained) -> Application:
        application = application_of(trained.best)
        if application is None:
            pytest.skip("the family has nothing to apply")
        return application

    @pytest.fixture(scope="class")
    @classmethod
    def inferred(cls, example: Example, trained: Trained, application: Application) -> Path:
        """The folder of an inference that nothing interrupted."""
        result = cli.run("infer", infer_options(example, trained.root / "inferred"))
        assert (result.predicted, result.skipped) == (len(application.find(example.cases)), 0)
        return result.folder

    @pytest.fixture(scope="class")
    @classmethod
    def others(cls, example: Example, trained: Trained) -> Path:
        """What other processes left: see `family_worker.main`."""
        folder = trained.root / "others"
        folder.mkdir()
        applied = application_of(trained.best) is not None
        options = infer_options(example, folder / "killed") if applied else []
        arguments = [str(folder), str(folder / "killed" / RUN), *options]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(family_worker.__file__).parent)]),
            "POLYMASK_ROOT": str(trained.root),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", family_worker.__file__, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return folder

    def test_an_inference_that_was_killed_goes_on_to_the_same_files(
        self, example: Example, application: Application, inferred: Path, others: Path
    ) -> None:
        folder = others / "killed" / RUN
        number = len(application.find(example.cases))
        assert not (folder / "predictions.csv").exists()
        done = len(pd.read_csv(folder / "predictions.partial.csv"))
        assert KILLED_AT - 1 <= done < number
        result = cli.run("infer", infer_options(example, others / "killed"))
        assert (result.predicted, result.skipped) == (number - done, done)
        assert files_below(folder) == files_below(inferred)

    def test_python_gets_what_the_folder_holds(
        self, example: Example, application: Application, inferred: Path
    ) -> None:
        cases = application.find(example.cases)
        predictor = polymask.load(RUN, device="cpu", precision="fp32")
        results = predictor.predict([example.cases / case for case in cases], batch_size=1)
        table = pd.read_csv(inferred / "predictions.csv", keep_default_na=False).set_index("file", drop=False)
        assert list(table.columns) == ["file", *application.columns]
        assert table.index.tolist() == [str(case) for case in cases]
        filled = [name for name in application.folders if (inferred / name).exists()]
        assert filled == list(application.folders)
        for case, result in zip(cases, results, strict=True):
            self.check_result(result, inferred, str(case.with_suffix("")), table.loc[str(case)].to_dict())

    # Checkpoints

    def test_a_checkpoint_gives_the_task_back(self, trained: Trained, tmp_path: Path) -> None:
        kept = trained.result.task  # was never on disk
        content = trained.last.content
        weights = {"model": kept.state_dict(), "ema": None, "training": content["training"]}
        save_checkpoint(tmp_path / f"{RUN}.pt", run_record(content), weights)
        torch.manual_seed(99)  # the network that takes the weights starts from others
        copy = rebuild(load_checkpoint(tmp_path / f"{RUN}.pt"))
        task = copy.build_task()
        np.testing.assert_equal(evaluate(copy, task), evaluate(trained.best, kept))

    @pytest.mark.parametrize("which", ["best", "last"])
    def test_every_tensor_of_a_checkpoint_is_used(self, trained: Trained, which: str) -> None:
        run = getattr(trained, which)
        stored, own = inference_weights(run.content), run.build_task().state_dict()
        assert stored.keys() == own.keys() == trained.result.task.state_dict().keys()
        np.testing.assert_equal(plain(own), plain(stored))

    def test_a_run_that_was_stopped_ends_as_one_that_was_not(
        self, example: Example, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = len(trained.data.train_loader())
        assert steps > 1
        with project_in(tmp_path):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                stop_in_step(patch, type(trained.task), 1 + steps)
                cli.run("train", [*example.options, *SMALL])
            last = tmp_path / BEST.with_suffix(".last.pt")
            assert load_checkpoint(last)["training"]["epoch"] == 1
            torch.rand(7)  # the state of the generators is another than at that step
            cli.run("train", ["resume=true", f"run_name={RUN}"])
            for path, run in ((BEST, trained.best), (BEST.with_suffix(".last.pt"), trained.last)):
                resumed = load_checkpoint(tmp_path / path)
                np.testing.assert_equal(*(course_and_weights(each) for each in (resumed, run.content)))


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


def stop_in_step(patch: pytest.MonkeyPatch, kind: type[Task], last: int) -> None:
    """Interrupt a training in the step after so many."""
    whole, taken = kind.training_step, []

    def step(task: Task, batch: Any) -> dict[str, Tensor]:
        taken.append(1)
        if len(taken) > last:
            raise KeyboardInterrupt
        return whole(task, batch)

    patch.setattr(kind, "training_step", step)


def infer_options(example: Example, folder: Path) -> list[str]:
    """Return the command line of an inference.

    One case at a time: wherever it is interrupted, the batches are the same, and so is the rounding.
    """
    options = [f"run_name={RUN}", f"data.data_dir={example.cases}", f"local_save_dir={folder}"]
    return [*options, "data.batch_size=1", "data.num_workers=0", *CPU]


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file; what a kill left under a temporary, hidden name does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def course_and_weights(content: Mapping[str, Any]) -> Any:
    """Return what of a checkpoint must not depend on whether it was interrupted, as plain containers."""
    return plain({name: value for name, value in content.items() if name != "config"})


def plain(value: Any) -> Any:
    """Return nested containers with arrays for tensors and without times."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items() if "second" not in str(name)}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.numpy() if isinstance(value, Tensor) else value


def assert_close(found: Rows, expected: Rows) -> None:
    """Compare rows of other batches.

    Libraries add in another order for another number of images. Of the seven digits of float32 a network
    keeps five; a pixel or an object so near to a threshold changes sides, which moves whole numbers.
    """
    for name, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        elif values.dtype.kind in "iub":
            moved = np.abs(found[name].astype(np.int64) - values.astype(np.int64)).sum()
            assert moved <= 1e-3 * np.abs(values.astype(np.int64)).sum(), name
        else:
            np.testing.assert_array_equal(found[name], values)
