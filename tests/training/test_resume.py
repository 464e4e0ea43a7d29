from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from stub_task import MetricList, StubTask, assert_equal, fit, make_trainer, train_loader, weights

from polymask.errors import UserError
from polymask.training import schedulers
from polymask.training.checkpoint import CheckpointFolder, load_checkpoint
from polymask.training.loop import TrainingLoop
from polymask.training.optimizers import adamw, sgd
from polymask.training.schedulers import Schedule
from polymask.training.state import TrainingState
from polymask.utils.paths import CONFIG_DIR


class Interrupted(Exception):  # noqa: N818
    pass


def stop_in(epoch: int, number: int):
    """Break off a run at a batch."""

    def alter(now: int, batch_number: int, batch: dict[str, Any]) -> None:
        if (now, batch_number) == (epoch, number):
            raise Interrupted

    return alter


KINDS = {
    "constant": schedulers.constant,
    "cosine": partial(schedulers.cosine, warmup_epochs=1.5),
    "poly": partial(schedulers.poly, warmup_epochs=1),
    "step": partial(schedulers.step, step_epochs=2, factor=0.5),
    "milestones": partial(schedulers.milestones, milestones=[4, 9], factor=0.5, warmup_steps=3),
    "one_cycle": schedulers.one_cycle,
    "plateau": partial(schedulers.plateau, factor=0.5, patience=0),
}


def run_whole(folder: Path, settings: dict[str, Any], **options: Any) -> StubTask:
    task = StubTask(dropout=0.3, batch_norm=True, unfreeze_at=1)
    fit(make_trainer(epochs=5, **settings), task, folder, **options)
    return task


def resume(folder: Path, settings: dict[str, Any], **options: Any) -> StubTask:
    """Go on in a new process, as it were: with other initial weights and an unlike random state."""
    task = StubTask(dropout=0.3, batch_norm=True, unfreeze_at=1, seed=99)
    content = load_checkpoint(CheckpointFolder(folder).last("run"))
    fit(make_trainer(epochs=5, **settings), task, folder, resume_from=content, **options)
    return task


def assert_same_run(resumed: Path, whole: Path) -> None:
    for name in ("run.pt", "run.last.pt"):
        assert_equal(load_checkpoint(resumed / name), load_checkpoint(whole / name), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, kind, ema_decay):
    settings = {"ema_decay": ema_decay, "accumulate_batches": 2, "clip_norm": 1.0}
    options = {"build_schedule": KINDS[kind], "build_optimizer": adamw}
    whole = run_whole(tmp_path / "whole", settings, **options)
    with pytest.raises(Interrupted):
        run_whole(tmp_path / "parts", settings, loader=train_loader(alter=stop_in(2, 3)), **options)
    assert load_checkpoint(tmp_path / "parts" / "run.last.pt")["training"]["epoch"] == 2
    resumed = resume(tmp_path / "parts", settings, **options)
    assert resumed.epochs_begun == [2, 3, 4]
    assert_equal(weights(resumed), weights(whole))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def stop_at_batch(last: int):
    """Break off a run after so many batches."""
    seen: list[int] = []

    def alter(now: int, number: int, batch: dict[str, Any]) -> None:
        seen.append(number)
        if len(seen) > last:
            raise Interrupted

    return alter


@pytest.mark.parametrize("steps", [1, 2, 4, 7])  # of 2 batches; a pass has 6 batches
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_run_with_epochs_of_steps_goes_on_bit_for_bit_wherever_it_was_killed(tmp_path, steps, epoch):
    settings = {"steps_per_epoch": steps, "accumulate_batches": 2, "log_every_steps": 3}
    options = {"build_schedule": KINDS["milestones"], "build_optimizer": adamw}
    whole_log, before, after = MetricList(), MetricList(), MetricList()
    whole = run_whole(tmp_path / "whole", settings, metric_log=whole_log, **options)
    loader = train_loader(batches_per_epoch=2 * steps, alter=stop_at_batch(2 * steps * epoch + 1))
    with pytest.raises(Interrupted):
        run_whole(tmp_path / "parts", settings, loader=loader, metric_log=before, **options)
    resumed = resume(tmp_path / "parts", settings, metric_log=after, **options)
    assert resumed.epochs_begun == list(range(epoch, 5))
    assert_equal(weights(resumed), weights(whole))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    # The points of the newest epoch are logged once more with their times, by which a tracker knows them.
    again = [point for point in before.steps if point["epoch"] == epoch]
    assert after.steps[: len(again)] == again
    assert_equal(before.steps + after.steps[len(again) :], whole_log.steps)


def test_step_log_that_is_begun_later_has_only_what_came_since(tmp_path):
    fit(make_trainer(epochs=1), StubTask(), tmp_path)  # 6 steps
    metric_log = MetricList()
    content = load_checkpoint(tmp_path / "run.last.pt")
    trainer = make_trainer(epochs=2, log_every_steps=4)
    fit(trainer, StubTask(), tmp_path, resume_from=content, metric_log=metric_log)
    assert [point["step"] for point in metric_log.steps] == [8, 12]


@pytest.mark.parametrize("kind", ["constant", "step", "plateau", "milestones"])
def test_finished_run_goes_on_to_more_epochs_as_if_never_finished(tmp_path, kind):
    # The other courses depend on the number of epochs, as they should.
    options = {"build_schedule": KINDS[kind], "build_optimizer": adamw}
    whole = run_whole(tmp_path / "whole", {"ema_decay": 0.9}, **options)
    short = StubTask(dropout=0.3, batch_norm=True, unfreeze_at=1)
    fit(make_trainer(epochs=2, ema_decay=0.9), short, tmp_path / "parts", **options)
    assert_equal(weights(resume(tmp_path / "parts", {"ema_decay": 0.9}, **options)), weights(whole))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


class StoppedBetween(CheckpointFolder):
    """Stops the run after the best checkpoint of an epoch was written and before the last one was."""

    def __init__(self, folder: Path, *, epoch: int) -> None:
        super().__init__(folder)
        self.epoch = epoch

    def last(self, run_name: str) -> Path:
        if load_checkpoint(self.best(run_name))["training"]["epoch"] == self.epoch:
            raise Interrupted
        return super().last(run_name)


def test_run_stopped_between_best_and_last_checkpoint_loses_nothing(tmp_path):
    whole = run_whole(tmp_path / "whole", {})
    epoch = load_checkpoint(tmp_path / "whole" / "run.pt")["training"]["epoch"]
    assert epoch > 1
    with pytest.raises(Interrupted):
        run_whole(tmp_path / "parts", {}, checkpoints=StoppedBetween(tmp_path / "parts", epoch=epoch))
    # The last checkpoint must not know of a best one that it could lack.
    assert load_checkpoint(tmp_path / "parts" / "run.last.pt")["training"]["epoch"] == epoch - 1
    assert load_checkpoint(tmp_path / "parts" / "run.pt")["training"]["epoch"] == epoch
    assert_equal(weights(resume(tmp_path / "parts", {})), weights(whole))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_resume_keeps_the_best_value_and_the_patience(tmp_path):
    course = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    fit(make_trainer(epochs=3), StubTask(course=course), tmp_path)
    content = load_checkpoint(tmp_path / "run.last.pt")
    task = StubTask(course=course)
    state = fit(make_trainer(epochs=6, patience=3), task, tmp_path, resume_from=content)
    assert (state.epoch, state.best_epoch, state.best_value) == (5, 2, 1.0)
    assert load_checkpoint(tmp_path / "run.pt")["training"]["epoch"] == 2


def test_resume_of_a_finished_run_trains_nothing(tmp_path):
    fit(make_trainer(), StubTask(), tmp_path)
    content, task = load_checkpoint(tmp_path / "run.last.pt"), StubTask(seed=5)
    state = fit(make_trainer(), task, tmp_path, resume_from=content)
    assert state.epoch == 3
    assert task.epochs_begun == []
    assert_equal(weights(task), content["model"])


def test_resume_logs_the_epochs_before_first(tmp_path):
    fit(make_trainer(epochs=2), StubTask(), tmp_path)
    metric_log = MetricList()
    content = load_checkpoint(tmp_path / "run.last.pt")
    fit(make_trainer(), StubTask(), tmp_path, resume_from=content, metric_log=metric_log)
    assert [len(history) for history in metric_log.logged] == [2, 3]


def test_run_without_gradient_scaling_goes_on_with_it():
    settings, task = make_trainer().settings, StubTask()
    optimizer = sgd(task.parameter_groups(), learning_rate=0.1)
    saved = TrainingLoop(settings, task, optimizer, Schedule()).everything(TrainingState(epoch=2))
    # What a CUDA device without bfloat16 chooses.
    scaled = dataclasses.replace(settings, precision=torch.float16)
    loop = TrainingLoop(scaled, task, optimizer, Schedule())
    assert loop.scaler.is_enabled()
    assert loop.restore(saved).epoch == 2


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIG_DIR / "scheduler").glob("*.yaml")))
@pytest.mark.parametrize("done", [1, 3])
def test_with_more_epochs_every_rate_is_that_of_a_run_of_the_new_length(tmp_path, option, done):
    build = instantiate(OmegaConf.load(CONFIG_DIR / "scheduler" / f"{option}.yaml"), _partial_=True)

    def rates(folder: Path, epochs: int, **options: Any) -> list[float]:
        metric_log, task = MetricList(), StubTask(course=[3.0, *[4.0] * 12])
        options = {"build_schedule": build, "metric_log": metric_log, **options}
        fit(make_trainer(epochs=epochs), task, folder, **options)
        return [row["learning_rate"] for row in metric_log.logged[-1]]

    rates(tmp_path / "parts", done)
    content = load_checkpoint(tmp_path / "parts" / "run.last.pt")
    resumed = rates(tmp_path / "parts", 9, resume_from=content)
    assert resumed[done:] == rates(tmp_path / "whole", 9)[done:]
    assert len(resumed) == 9


@pytest.mark.parametrize(
    "change", [{"optimizer": {}}, {"optimizer": {"state": 3, "param_groups": [{}]}}, {"schedule": {}}]
)
def test_training_state_that_does_not_fit_is_told_in_one_line(tmp_path, change):
    fit(make_trainer(epochs=1), StubTask(), tmp_path)
    content = load_checkpoint(tmp_path / "run.last.pt") | change
    if "schedule" in change:
        content["optimizer"]["param_groups"].append({})
    with pytest.raises(
        UserError, match=r"training state of the last checkpoint does not fit its run \(\w+: "
    ):
        fit(make_trainer(), StubTask(), tmp_path, resume_from=content)
