"""What every family keeps to. Its test file says what to learn from, and inherits all the tests:

    class TestPets(FamilyTester):
        @pytest.fixture(scope="class")
        @classmethod
        def example(cls, tmp_path_factory):
            folder = write_pets(tmp_path_factory.mktemp("pets"))
            return Example(options=["task=pets", f"data.data_dir={folder}"], cases=folder / "images")

One tiny run is trained, and all tests look at it. None knows the family: each compares what it gives
with what another way to the same must give, or with what lies on disk. The tests of an application are
skipped for a family without one; a family that has one also says how to read its files, in `check_result`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from family_run import (
    EPOCHS,
    SMALL,
    Example,
    FamilyRun,
    Trained,
    assert_close,
    files_below,
    infer_options,
    plain,
    project_in,
)
from family_worker import BEST, KILLED_AT, LAST, RUN, WORLD_SIZE, application_of, evaluate
from torch import Tensor

import polymask
from polymask import cli
from polymask.data.module import DataModule
from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError
from polymask.factories import build_task, build_trainer, rebuild
from polymask.families.base import Application, Prediction, Report, Task
from polymask.inference.ensemble import EnsembleApplication, EnsembleTask
from polymask.inference.folder import predict_files
from polymask.inference.members import check_can_merge, read_members
from polymask.inference.predictor import Predictor
from polymask.reporting.rows import read_samples
from polymask.structures.samples import Rows
from polymask.training.checkpoint import inference_weights, load_checkpoint, run_record, save_checkpoint


class FamilyTester(FamilyRun):
    """All tests of a family; see the module."""

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
        assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
        # Zero times a parameter would have given it a gradient, too.
        assert [name for name, gradient in gradients.items() if not gradient.any()] == []

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
            plainly = scorer.metrics({name: values[chosen] for name, values in rows.items()}, per_class=True)
            found = {name: values[place] for name, values in weighted.items()}
            # Metrics without any sample may be gone from what is computed plainly; they have no value then.
            wanted = dict.fromkeys(found, np.nan) | {name: values[0] for name, values in plainly.items()}
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9, nan_ok=True), chosen

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
        values, headline = trained.scorer.point_estimates(rows), trained.scorer.headline
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
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of `report`."""
        folder = tmp_path_factory.mktemp("report") / RUN
        folder.mkdir()
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def report(cls, trained: Trained, folder: Path) -> Report:
        """A finished report of the test samples."""
        report = trained.best.family.report(folder, trained.data)
        rows = report.complete(evaluate(trained.best, trained.task, consume=report.add))
        assert report.finish(rows, trained.course)
        return report

    def test_a_report_is_written_whole(
        self, trained: Trained, rows: Rows, report: Report, folder: Path
    ) -> None:
        rows = report.complete(rows)
        names = {path.name for path in folder.iterdir()}
        assert {"metrics.json", "samples.npz", "training_curves.png", *report.bulk_folders} <= names
        assert list(folder.rglob(".*")) == []  # nothing under a temporary name
        for name in report.bulk_folders:
            assert len([path for path in (folder / name).rglob("*") if path.is_file()]) >= len(rows["ids"])
        stored, groups = read_samples(folder)
        np.testing.assert_equal(stored, rows)
        assert groups == trained.data.groups(rows["ids"].tolist())
        content = json.loads((folder / "metrics.json").read_text())
        written = {name: entry["value"] for name, entry in content["metrics"].items()} | content["losses"]
        expected = trained.scorer.point_estimates(rows)
        for name in expected.keys() - trained.scorer.counts(rows).keys():
            value = np.nan if written[name] is None else written[name]
            assert value == pytest.approx(expected[name], nan_ok=True), name

    def test_a_report_built_anew_draws_the_same_pictures(
        self, trained: Trained, rows: Rows, report: Report, folder: Path
    ) -> None:
        before = files_below(folder)
        pictures = {id_: report.picture(id_) for id_ in rows["ids"].tolist()}
        run = rebuild(load_checkpoint(trained.root / BEST))
        later = run.family.report(folder, run.build_data(split=split_from_csv(run.content["split"])))
        for id_, picture in pictures.items():
            assert picture.dtype == np.uint8
            assert picture.shape == (*picture.shape[:2], 3)
            assert picture.std() > 5  # not blank
            np.testing.assert_array_equal(later.picture(id_), picture)
        assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)
        assert files_below(folder) == before

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

    def test_an_inference_that_was_killed_goes_on_to_the_same_files(
        self, example: Example, application: Application, inferred: Path, others: Path
    ) -> None:
        folder = others / "killed" / RUN
        number = len(application.find(example.cases))
        assert not (folder / "predictions.csv").exists()
        done = [Path(name).stem for name in pd.read_csv(folder / "predictions.partial.csv")["file"]]
        assert KILLED_AT - 1 <= len(done) < number
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.stem in done}
        result = cli.run("infer", infer_options(example, others / "killed"))
        assert (result.predicted, result.skipped) == (number - len(done), len(done))
        assert {path: path.stat().st_mtime_ns for path in times} == times  # written once
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

    def test_an_ensemble_of_the_run_alone_is_the_run_or_all_are_refused(
        self, example: Example, trained: Trained, inferred: Path, rows: Rows, tmp_path: Path
    ) -> None:
        (member,) = read_members([trained.root / BEST], {})
        if type(member.application).merge is Application.merge:
            with pytest.raises(UserError, match="run and run cannot be one ensemble"):
                check_can_merge([member, member])
            return
        ensemble = EnsembleApplication([member.application])
        task = EnsembleTask([member.run.build_task()], ensemble)
        loader = trained.data.evaluation_loader("test", beside=[])
        found = build_trainer(trained.best.cfg).evaluate(task, loader, title="test")
        expected = {name: values for name, values in rows.items() if not name.startswith("loss")}
        assert found.keys() == expected.keys()
        assert_close(found, expected)
        own = {"device": "cpu", "precision": "fp32"}
        predictor = Predictor(task=task, application=ensemble, run_name=RUN, path=member.path, **own)
        options = {"batch_size": 1, "num_workers": 0}
        predict_files(predictor, example.cases, ensemble.find(example.cases), tmp_path / RUN, **options)
        assert files_below(tmp_path / RUN) == files_below(inferred)

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
        self, example: Example, trained: Trained, tmp_path: Path
    ) -> None:
        steps = len(trained.data.train_loader())
        assert steps > 1
        with project_in(tmp_path):
            with stopped_after(1 + steps, type(trained.task)), pytest.raises(KeyboardInterrupt):
                cli.run("train", [*example.options, *SMALL])
            assert load_checkpoint(tmp_path / LAST)["training"]["epoch"] == 1
            torch.rand(7)  # the state of the generator is no longer that of the step
            cli.run("train", ["resume=true", f"run_name={RUN}"])
            for path, run in ((BEST, trained.best), (LAST, trained.last)):
                resumed = load_checkpoint(tmp_path / path)
                np.testing.assert_equal(*(course_and_weights(each) for each in (resumed, run.content)))


@contextmanager
def stopped_after(number: int, kind: type[Task]) -> Iterator[None]:
    """Interrupt a training in the step after so many."""
    whole, left = kind.training_step, iter(range(number))

    def step(task: Task, batch: Any) -> dict[str, Tensor]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(task, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "training_step", step)
        yield


def course_and_weights(content: Mapping[str, Any]) -> Any:
    """Return what of a checkpoint must not depend on whether it was interrupted, as plain containers."""
    return plain({name: value for name, value in content.items() if name != "config"})
