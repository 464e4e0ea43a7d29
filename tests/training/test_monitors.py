"""Best checkpoints by several metrics: which epochs they hold, when training stops, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stub_task import NUM_VAL, MetricList, StubTask, assert_equal, fit, make_trainer, train_loader

from polymask.errors import UserError
from polymask.training.checkpoint import CheckpointFolder, load_checkpoint
from polymask.training.state import TrainingState

NAN = float("nan")
LOSSES = [5.0, 4.0, 4.5, 4.5, 4.5, 4.5, 4.5, 9.0]
BIASES = [0.125, 0.0, NAN, 0.5, 0.5, 0.25, NAN, 9.0]
BY_BIAS = {"val/bias": "max"}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_checkpoint_holds_the_best_epoch_of_its_own_metric(tmp_path):
    task = StubTask(course=LOSSES, bias_course=BIASES)
    fit(
        make_trainer(epochs=6),
        task,
        tmp_path,
        monitors=BY_BIAS,
        decisions=lambda rows: {"loss": rows["loss"]},
    )
    assert files(tmp_path) == ["run.last.pt", "run.pt", "run@bias.pt"]
    best, other, last = (load_checkpoint(tmp_path / f"run{kind}.pt") for kind in ("", "@bias", ".last"))
    assert [content["training"]["epoch"] for content in (best, other, last)] == [2, 4, 6]
    assert_equal(best["model"], task.evaluated[2])  # the first evaluation was before the training
    assert_equal(other["model"], task.evaluated[4])
    # Each with what its own validation rows said.
    for content, loss in ((best, 4.0), (other, 4.5)):
        assert torch.equal(content["decisions"]["loss"], torch.full((NUM_VAL,), loss, dtype=torch.double))
    state = TrainingState(**last["training"])
    assert (state.best_value, state.best_epoch) == (4.0, 2)
    assert (state.best_values, state.best_epochs) == ({"val/bias": 0.5}, {"val/bias": 4})


@pytest.mark.parametrize(
    ("monitors", "stopped"), [({}, 4), ({"val/bias": "max"}, 6), ({"val/bias": "min"}, 4)]
)
def test_patience_counts_epochs_in_which_nothing_became_better(tmp_path, caplog, monitors, stopped):
    metric_log, task = MetricList(), StubTask(course=LOSSES, bias_course=BIASES)
    with caplog.at_level("INFO"):
        trainer = make_trainer(epochs=8, patience=2)
        state = fit(trainer, task, tmp_path, monitors=monitors, metric_log=metric_log)
    assert (state.epoch, state.epochs_since_best) == (stopped, 2)
    watched = " or ".join(["val/loss", *monitors])
    assert f"stopped: no better {watched} for 2 epochs" in caplog.messages
    counted = [row.get("epochs_without_improvement") for row in metric_log.logged[-1]]
    lines = [message.split("  ")[-1] for message in caplog.messages if message.startswith("epoch ")]
    if not monitors:
        assert counted == [None] * 4
        assert [line == "best" for line in lines] == [True, True, False, False]
    elif stopped == 6:
        assert counted == [0, 0, 1, 0, 1, 2]
        assert lines == [
            "best val/loss, val/bias",
            "best val/loss",
            "1 epoch without improvement",
            "best val/bias",
            "1 epoch without improvement",
            "2 epochs without improvement",
        ]


def test_without_further_metrics_nothing_is_added_to_files(tmp_path):
    fit(make_trainer(epochs=2), StubTask(course=LOSSES), tmp_path, monitors={})
    assert files(tmp_path) == ["run.last.pt", "run.pt"]
    content = torch.load(tmp_path / "run.last.pt", weights_only=True)
    assert content["training"].keys() == {
        *("epoch", "step", "best_value", "best_epoch", "epochs_since_best", "threads"),
        *("history", "points", "window", "window_batches"),
    }
    assert "epochs_without_improvement" not in content["training"]["history"][0]


def test_mistyped_metric_is_found_before_training(tmp_path):
    task = StubTask()
    with pytest.raises(UserError) as caught:
        fit(make_trainer(), task, tmp_path, monitors={"val/bias": "max", "val/bais": "max"})
    assert str(caught.value) == (
        "task.monitors=[val/bais] is not a metric of this task. Did you mean 'val/bias'? "
        "Allowed: val/loss, val/bias."
    )
    assert task.epochs_begun == []
    assert not files(tmp_path)


def test_metric_that_is_never_a_number_has_no_checkpoint_and_harms_no_other(tmp_path, caplog):
    task = StubTask(course=LOSSES, bias_course=[NAN] * 3)
    assert fit(make_trainer(), task, tmp_path, monitors=BY_BIAS).best_epoch == 2
    assert files(tmp_path) == ["run.last.pt", "run.pt"]
    assert "task.monitors=[val/bias] was not a number in any epoch: it has no checkpoint" in caplog.messages


# Going on


class Interrupted(Exception):  # noqa: N818
    pass


class StoppedBefore(CheckpointFolder):
    """Stops the run when the file of an ending is about to be written for the `number`th time."""

    def __init__(self, folder: Path, ending: str, number: int) -> None:
        super().__init__(folder)
        self.ending, self.left = ending, number

    def _seen(self, path: Path) -> Path:
        self.left -= path.name == f"run{self.ending}"
        if not self.left:
            raise Interrupted
        return path

    def best(self, run_name: str, metric: str | None = None) -> Path:
        return self._seen(super().best(run_name, metric))

    def last(self, run_name: str) -> Path:
        return self._seen(super().last(run_name))


def train(folder: Path, seed: int = 0, **options: Any) -> None:
    trainer = make_trainer(epochs=6, patience=3, ema_decay=0.9)
    task = StubTask(dropout=0.3, batch_norm=True, seed=seed, course=LOSSES, bias_course=BIASES)
    fit(trainer, task, folder, monitors=BY_BIAS, decisions=lambda rows: {"bias": rows["bias"]}, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def broken_off(epoch: int) -> Any:
    def alter(now: int, number: int, batch: dict[str, Any]) -> None:
        if (now, number) == (epoch, 3):
            raise Interrupted

    return train_loader(alter=alter)


@pytest.mark.parametrize(
    "stop",
    [
        lambda folder: {"loader": broken_off(2)},
        lambda folder: {"loader": broken_off(5)},  # one epoch without improvement behind it
        lambda folder: {"checkpoints": StoppedBefore(folder, ".pt", 2)},  # before the first file of epoch 2
        lambda folder: {"checkpoints": StoppedBefore(folder, ".last.pt", 2)},  # behind it
        lambda folder: {"checkpoints": StoppedBefore(folder, "@bias.pt", 2)},  # in epoch 4
        lambda folder: {"checkpoints": StoppedBefore(folder, ".last.pt", 4)},
    ],
)
def test_interrupted_run_ends_with_all_files_of_an_uninterrupted_one(tmp_path, whole, stop):
    with pytest.raises(Interrupted):
        train(tmp_path, **stop(tmp_path))
    content = load_checkpoint(tmp_path / "run.last.pt")
    for metric, value in content["training"].get("best_values", {}).items():
        # A best value that is claimed has been written, or a better one.
        kept = load_checkpoint(CheckpointFolder(tmp_path).best("run", metric))
        assert kept["training"]["best_values"][metric] >= value
    train(tmp_path, seed=99, resume_from=content)
    assert files(tmp_path) == files(whole) == ["run.last.pt", "run.pt", "run@bias.pt"]
    for name in files(whole):
        assert_equal(load_checkpoint(tmp_path / name), load_checkpoint(whole / name), name)


def test_run_between_two_files_of_one_epoch_is_as_before(tmp_path):
    """Both metrics have their best in epoch 1: stopped between their files, no last one claims anything."""
    with pytest.raises(Interrupted):
        train(tmp_path, checkpoints=StoppedBefore(tmp_path, "@bias.pt", 1))
    assert files(tmp_path) == ["run.pt"]


def test_run_that_began_without_further_metrics_goes_on_with_its_own_counters(tmp_path):
    fit(make_trainer(epochs=4), StubTask(course=LOSSES), tmp_path)
    content = load_checkpoint(tmp_path / "run.last.pt")
    assert content["training"]["epochs_since_best"] == 2
    task = StubTask(course=LOSSES, bias_course=BIASES)
    state = fit(make_trainer(epochs=6), task, tmp_path, resume_from=content, monitors=BY_BIAS)
    assert (state.best_epoch, state.best_epochs) == (2, {"val/bias": 5})


@pytest.mark.parametrize(
    "change",
    [
        {"best_values": {"val/bias": "1"}},
        {"best_epochs": {"val/bias": 1.5}},
        {"best_epochs": {}},
        {"best_epochs": {"val/../../x": 1}, "best_values": {"val/../../x": 0.5}},
        {"best_values": [1.0]},
    ],
)
def test_damaged_best_values_are_told(tmp_path, whole, change):
    content = torch.load(whole / "run.last.pt", weights_only=True)
    content["training"] |= change
    torch.save(content, tmp_path / "run.last.pt")
    with pytest.raises(UserError, match=r"is not valid: training is a dict, and must be the state"):
        load_checkpoint(tmp_path / "run.last.pt")


def test_a_copy_needs_the_best_epochs_by_all_metrics(tmp_path, whole):
    for ending in (".last.pt", ".pt"):
        (tmp_path / f"fork{ending}").write_bytes((whole / f"run{ending}").read_bytes())
    with pytest.raises(UserError, match=r"without its best epoch; copy run@bias\.pt to .*fork@bias\.pt, too"):
        load_checkpoint(tmp_path / "fork.last.pt")
    (tmp_path / "fork@bias.pt").write_bytes((whole / "run@bias.pt").read_bytes())
    assert load_checkpoint(tmp_path / "fork.last.pt")["run_name"] == "fork"
