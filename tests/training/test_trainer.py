from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from stub_task import (
    NUM_VAL,
    MetricList,
    StubTask,
    assert_close,
    assert_equal,
    evaluate,
    fit,
    make_batch,
    make_trainer,
    train_loader,
    val_loader,
    weights,
)

from polymask.errors import UserError
from polymask.training import schedulers
from polymask.training.checkpoint import load_checkpoint
from polymask.training.optimizers import sgd
from polymask.training.schedulers import Schedule

# Optimisation


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 4), (8, 1)])
def test_accumulated_batches_equal_one_big_batch(tmp_path, batch_size, accumulate):
    big, task = StubTask(), StubTask()
    fit(make_trainer(), big, tmp_path / "big", loader=train_loader(8))
    trainer = make_trainer(accumulate_batches=accumulate)
    state = fit(trainer, task, tmp_path / "small", loader=train_loader(batch_size))
    assert_close(weights(task), weights(big))
    assert state.step == 9


@pytest.mark.parametrize("accumulate", [1, 4, 6, 7])
def test_training_equals_a_loop_by_hand_also_when_the_last_group_is_short(tmp_path, accumulate):
    task, by_hand = StubTask(), StubTask()
    trainer = make_trainer(accumulate_batches=accumulate, epochs=2)
    state = fit(trainer, task, tmp_path, learning_rate=0.1)
    loader, optimizer = train_loader(), torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(2):
        loader.batch_sampler.start_epoch(epoch)
        batches = list(loader)
        for start in range(0, 6, accumulate):
            group = batches[start : start + accumulate]
            optimizer.zero_grad()
            torch.stack([by_hand.errors(batch).square().mean() for batch in group]).mean().backward()
            optimizer.step()
    assert_close(weights(task), weights(by_hand))
    assert state.step == 2 * trainer.settings.steps_per_epoch(loader) == 2 * len(range(0, 6, accumulate))


def test_epoch_reports_the_mean_of_each_loss(tmp_path):
    task, fresh = StubTask(), StubTask()
    state = fit(make_trainer(epochs=1), task, tmp_path, learning_rate=0.0)
    loader = train_loader()
    loader.batch_sampler.start_epoch(0)
    errors = torch.cat([fresh.errors(batch).detach() for batch in loader])
    assert state.history[0]["train/loss"] == pytest.approx(float(errors.square().mean()))
    assert state.history[0]["train/loss_l1"] == pytest.approx(float(errors.abs().mean()))
    assert state.history[0]["learning_rate"] == 0.0
    assert state.history[0]["train/images_per_second"] > 0


@pytest.mark.parametrize("clip_norm", [None, 0.01, 1e6])
def test_clipping_bounds_the_gradient_over_all_parameters(tmp_path, clip_norm):
    task = StubTask()
    before = torch.nn.utils.parameters_to_vector(task.parameters()).detach()
    build = partial(sgd, momentum=0.0)
    # One step with a rate of 1 moves the weights by the gradient.
    trainer = make_trainer(epochs=1, clip_norm=clip_norm, accumulate_batches=6)
    fit(trainer, task, tmp_path, build_optimizer=build, learning_rate=1.0)
    moved = float((torch.nn.utils.parameters_to_vector(task.parameters()).detach() - before).norm())
    assert moved == pytest.approx(0.01, rel=1e-3) if clip_norm == 0.01 else moved > 0.1


def test_dropout_and_order_depend_on_the_seed_only(tmp_path):
    found = []
    for run, seed in enumerate((0, 0, 1)):
        torch.manual_seed(run)
        task = StubTask(dropout=0.5)
        torch.rand(run)  # what was drawn before must not matter
        fit(make_trainer(seed=seed), task, tmp_path / str(run))
        found.append(weights(task))
    assert_equal(found[0], found[1])
    assert not torch.equal(found[0]["head.1.weight"], found[2]["head.1.weight"])


def test_frozen_parameters_are_trained_from_their_epoch_on(tmp_path):
    task = StubTask(unfreeze_at=2)
    first = weights(task)["encoder.0.weight"]
    fit(make_trainer(), task, tmp_path)
    course = [seen["encoder.0.weight"] for seen in task.evaluated]  # the first is before the training
    assert [torch.equal(first, seen) for seen in course] == [True, True, True, False]


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_before(tmp_path):
    def spoil(epoch: int, number: int, batch: dict[str, Any]) -> None:
        if (epoch, number) == (1, 2):
            batch["image"][0] = float("nan")

    task, loader = StubTask(), train_loader()
    loader.batch_sampler.start_epoch(1)
    names = ", ".join(list(loader)[2]["ids"])
    with pytest.raises(UserError, match=rf"the loss is not finite \(loss=nan, loss_l1=nan\) for .* {names};"):
        fit(make_trainer(), task, tmp_path, loader=train_loader(alter=spoil))
    assert load_checkpoint(tmp_path / "run.last.pt")["training"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in task.state_dict().values())


# Evaluation


def test_evaluation_means_over_all_samples_and_hands_on_predictions():
    task, seen = StubTask(), []
    metrics = evaluate(make_trainer(), task, val_loader(), title="test", consume=seen.extend)
    batch = make_batch([(0, index, 0) for index in range(NUM_VAL)], offset=500)
    errors = task.errors(batch).detach()
    assert metrics["loss"] == pytest.approx(float(errors.square().mean()), rel=1e-6)
    assert metrics["bias"] == pytest.approx(float(errors.mean()), rel=1e-6)
    np.testing.assert_allclose(seen, errors.numpy())


def test_evaluation_draws_no_random_number_and_leaves_weights_and_statistics():
    task = StubTask(dropout=0.5, batch_norm=True).train()
    torch.manual_seed(0)
    before = weights(task), torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    first = evaluate(make_trainer(), task, val_loader(), title="val")
    second = evaluate(make_trainer(), task, val_loader(), title="val")
    assert first == second
    assert_equal(weights(task), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    assert random.getstate() == before[3]
    assert not task.training
    assert all(parameter.grad is None for parameter in task.parameters())


def test_limit_batches_holds_for_training_and_evaluation(tmp_path):
    trainer, task = make_trainer(limit_batches=2, epochs=1), StubTask()
    seen: list[float] = []
    trainer.evaluate(task, val_loader(), title="val", consume=seen.extend)
    assert len(seen) == 6
    assert (
        trainer.settings.num_batches(train_loader()) == trainer.settings.steps_per_epoch(train_loader()) == 2
    )
    assert fit(trainer, task, tmp_path).step == 2
    assert make_trainer(limit_batches=99).settings.num_batches(train_loader()) == 6
    assert make_trainer(limit_batches=5, accumulate_batches=2).settings.steps_per_epoch(train_loader()) == 3


class Watch(Schedule):
    """Keeps the weights after each optimisation step."""

    def __init__(self, task: StubTask) -> None:
        super().__init__()
        self.task, self.seen = task, [weights(task)]

    def end_step(self) -> None:
        self.seen.append(weights(self.task))


def test_averaged_weights_are_evaluated_and_saved_and_the_own_ones_restored(tmp_path):
    task = StubTask(batch_norm=True)
    watch = Watch(task)
    fit(make_trainer(ema_decay=0.7, epochs=2), task, tmp_path, build_schedule=lambda *_, **__: watch)
    average, after_epoch = watch.seen[0], []
    for n, live in enumerate(watch.seen[1:], start=1):
        decay = min(0.7, (1 + n) / (10 + n))
        average = {
            name: decay * average[name] + (1 - decay) * value if value.is_floating_point() else value
            for name, value in live.items()
        }
        if n % 6 == 0:
            after_epoch.append(average)
    assert len(after_epoch) == 2
    for seen, expected in zip(task.evaluated[1:], after_epoch, strict=True):
        assert_close(seen, expected)
    assert_equal(weights(task), watch.seen[-1])
    saved = load_checkpoint(tmp_path / "run.last.pt")
    assert_equal(saved["model"], watch.seen[-1])
    floats = {name: value for name, value in after_epoch[-1].items() if value.is_floating_point()}
    assert_close({name: saved["ema"][name] for name in floats}, floats)


# Epochs of steps, and their log


@pytest.mark.parametrize(("steps", "accumulate"), [(4, 1), (9, 1), (5, 3)])
def test_epochs_of_steps_equal_a_loop_by_hand_over_all_passes(tmp_path, steps, accumulate):
    task, by_hand = StubTask(), StubTask()
    trainer = make_trainer(steps_per_epoch=steps, accumulate_batches=accumulate, epochs=3)
    state = fit(trainer, task, tmp_path, learning_rate=0.1)
    loader, optimizer = train_loader(), torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    batches = []
    for number in range(8):  # 6 batches each
        loader.start_epoch(number)
        batches += list(loader)
    for step in range(3 * steps):
        group = batches[step * accumulate : (step + 1) * accumulate]
        optimizer.zero_grad()
        torch.stack([by_hand.errors(batch).square().mean() for batch in group]).mean().backward()
        optimizer.step()
    assert_close(weights(task), weights(by_hand))
    assert (state.step, state.epoch, task.epochs_begun) == (3 * steps, 3, [0, 1, 2])


def test_epochs_of_steps_count_for_schedule_and_patience(tmp_path):
    lengths = []

    def build(optimizer, *, steps_per_epoch, epochs, mode):
        lengths.append(steps_per_epoch * epochs)
        return schedulers.milestones(
            optimizer, steps_per_epoch=steps_per_epoch, epochs=epochs, mode=mode, milestones=[8], factor=0.5
        )

    task = StubTask(course=[3.0, 2.0, 2.5, 2.5, 9.0])
    trainer = make_trainer(steps_per_epoch=4, epochs=5, patience=2)
    state = fit(trainer, task, tmp_path, build_schedule=build, learning_rate=0.1)
    assert (state.epoch, state.step, lengths) == (4, 16, [20])
    assert [row["learning_rate"] for row in state.history] == [0.1, 0.1, 0.05, 0.05]


@pytest.mark.parametrize(("limit", "steps"), [(3, 3), (99, 4)])
def test_limit_batches_shortens_epochs_of_steps_and_skips_nothing(tmp_path, limit, steps):
    seen: list[str] = []
    trainer = make_trainer(steps_per_epoch=4, limit_batches=limit, epochs=2)
    loader = train_loader(
        batches_per_epoch=trainer.settings.batches_per_epoch,
        alter=lambda *about: seen.extend(about[2]["ids"]),
    )
    assert trainer.settings.steps_per_epoch(loader) == steps
    assert fit(trainer, StubTask(), tmp_path, loader=loader).step == 2 * steps
    first_pass = seen[:24]
    assert len(set(first_pass)) == len(first_pass) == min(24, 8 * steps)


@pytest.mark.parametrize(("steps_per_epoch", "accumulate"), [(None, 1), (5, 1), (4, 2)])
def test_points_are_means_of_the_losses_since_the_last_also_over_the_end_of_an_epoch(
    tmp_path, steps_per_epoch, accumulate
):
    metric_log = MetricList()
    trainer = make_trainer(
        steps_per_epoch=steps_per_epoch, accumulate_batches=accumulate, log_every_steps=4, epochs=3
    )
    build = partial(schedulers.step, step_epochs=1, factor=0.5)
    state = fit(trainer, StubTask(), tmp_path, build_schedule=build, metric_log=metric_log)

    losses: list[float] = []

    class Watched(StubTask):
        def training_step(self, batch):
            parts = super().training_step(batch)
            losses.append(float(parts["loss"].detach()))
            return parts

    again = make_trainer(steps_per_epoch=steps_per_epoch, accumulate_batches=accumulate, epochs=3)
    fit(again, Watched(), tmp_path / "again", build_schedule=build)
    per_epoch = state.step // 3
    expected = list(range(4, state.step + 1, 4))
    assert [point["step"] for point in metric_log.steps] == expected
    assert metric_log.steps == state.points
    for number, point in enumerate(state.points):
        window = losses[4 * number * accumulate : 4 * (number + 1) * accumulate]
        assert point["step/train/loss"] == pytest.approx(np.mean(window), rel=1e-6)
        epoch = (point["step"] - 1) // per_epoch
        assert (point["epoch"], point["step/learning_rate"]) == (epoch + 1, 0.05 * 0.5**epoch)
    assert state.window_batches == (state.step % 4) * accumulate


def test_step_log_changes_nothing_of_the_training(tmp_path):
    plain, logged = StubTask(dropout=0.3), StubTask(dropout=0.3)
    fit(make_trainer(), plain, tmp_path / "plain")
    fit(make_trainer(log_every_steps=2), logged, tmp_path / "logged")
    assert_equal(weights(logged), weights(plain))
    first, second = (load_checkpoint(tmp_path / name / "run.pt") for name in ("plain", "logged"))
    assert_equal(second["training"]["history"], first["training"]["history"])
    assert first["training"]["points"] == []


# Course of a run


def test_monitor_that_does_not_exist_is_found_before_training(tmp_path):
    task = StubTask()
    task.monitor = "val/los"
    with pytest.raises(UserError) as caught:
        fit(make_trainer(), task, tmp_path)
    assert str(caught.value) == (
        "task.monitor='val/los' is not a metric of this task. Did you mean 'val/loss'? "
        "Allowed: val/loss, val/bias."
    )
    assert task.epochs_begun == []
    assert not list(tmp_path.iterdir())


def test_early_stopping_counts_epochs_without_a_better_value(tmp_path, caplog):
    task = StubTask(course=[5.0, 4.0, 4.5, 3.0, 3.1, 3.2, 3.0, 1.0])
    with caplog.at_level("INFO"):
        state = fit(make_trainer(epochs=8, patience=3), task, tmp_path)
    assert (state.epoch, state.best_epoch, state.best_value, state.epochs_since_best) == (7, 4, 3.0, 3)
    assert task.epochs_begun == list(range(7))
    assert "stopped: no better val/loss for 3 epochs" in caplog.messages


def test_best_and_last_checkpoint_hold_their_epochs(tmp_path):
    task = StubTask(course=[5.0, 4.0, 4.5])
    state = fit(make_trainer(), task, tmp_path)
    best, last = (load_checkpoint(tmp_path / f"run{kind}.pt") for kind in ("", ".last"))
    assert (best["training"]["epoch"], best["training"]["best_value"]) == (2, 4.0)
    assert last["training"] == state.state_dict()
    assert_equal(best["model"], task.evaluated[2])
    assert_equal(last["model"], task.evaluated[3])
    assert {"optimizer", "schedule", "scaler"} <= last.keys() - best.keys()
    assert len(list(tmp_path.iterdir())) == 2


def test_metric_to_maximise(tmp_path):
    task = StubTask(course=[0.5, 0.7, 0.6])
    task.mode = "max"
    assert fit(make_trainer(), task, tmp_path).best_epoch == 2
    assert load_checkpoint(tmp_path / "run.pt")["training"]["epoch"] == 2


def test_monitored_metric_that_is_never_a_number_ends_as_a_user_error(tmp_path):
    task = StubTask(course=[float("nan")] * 3)
    with pytest.raises(UserError, match=r"task\.monitor='val/loss' was not a number in any epoch"):
        fit(make_trainer(), task, tmp_path)
    assert load_checkpoint(tmp_path / "run.last.pt")["training"]["epoch"] == 3
    assert not (tmp_path / "run.pt").exists()


def test_monitored_metric_without_a_value_is_said_before_training(tmp_path, caplog):
    class Unmeasured(StubTask):
        def evaluation(self):
            rows = super().evaluation()
            if not self.epochs_begun:
                rows["loss"] = np.full(len(rows["ids"]), np.nan)
            return rows

    assert fit(make_trainer(), Unmeasured(), tmp_path).best_value is not None
    begin = "task.monitor=val/loss has no value on the validation subset yet"
    assert any(message.startswith(begin) for message in caplog.messages)
    caplog.clear()
    fit(make_trainer(), StubTask(), tmp_path)
    assert not [message for message in caplog.messages if "has no value" in message]


def test_schedule_is_told_the_monitored_value(tmp_path):
    task = StubTask(course=[3.0, 2.0, 2.5, 1.0])
    build = partial(schedulers.plateau, factor=0.5, patience=0)
    state = fit(make_trainer(epochs=4), task, tmp_path, build_schedule=build, learning_rate=0.1)
    assert [row["learning_rate"] for row in state.history] == [0.1, 0.1, 0.1, 0.05]


def test_every_epoch_is_logged_with_all_before_it(tmp_path):
    metric_log = MetricList()
    state = fit(make_trainer(), StubTask(), tmp_path, metric_log=metric_log)
    assert [len(history) for history in metric_log.logged] == [1, 2, 3]
    assert metric_log.logged[-1] == state.history
    assert state.history[0].keys() == {
        "epoch",
        "train/loss",
        "train/loss_l1",
        "train/epoch_index",
        "train/images_per_second",
        "learning_rate",
        "epoch_seconds",
        "val/loss",
        "val/bias",
    }


def test_what_the_task_measured_in_training_is_logged(tmp_path):
    state = fit(make_trainer(), StubTask(), tmp_path)
    assert [row["train/epoch_index"] for row in state.history] == [0.0, 1.0, 2.0]


class PreviewsOfEvenEpochs:
    """Keeps the predictions of every second epoch and what was written so far when it is told to write."""

    def __init__(self, folder) -> None:
        self.folder, self.seen, self.checkpoints = folder, {}, []

    def consumer(self, epoch):
        if epoch % 2:
            return None
        return self.seen.setdefault(epoch, []).extend

    def finish(self) -> None:
        self.checkpoints.append((self.folder / "run.last.pt").is_file())


def test_previews_see_the_predictions_of_their_epochs_after_the_checkpoint_is_safe(tmp_path):
    previews = PreviewsOfEvenEpochs(tmp_path)
    fit(make_trainer(epochs=4), StubTask(), tmp_path, previews=previews)
    assert {epoch: len(predictions) for epoch, predictions in previews.seen.items()} == {2: 10, 4: 10}
    assert previews.checkpoints == [True] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs=0 is not valid"),
        ({"epochs": 2.5}, r"epochs=2\.5 is not valid"),
        ({"seed": -1}, r"seed=-1 is not valid"),
        ({"patience": 0}, r"trainer\.patience=0 is not valid"),
        ({"accumulate_batches": 0}, r"trainer\.accumulate_batches=0 is not valid"),
        ({"limit_batches": 0}, r"trainer\.limit_batches=0 is not valid"),
        ({"steps_per_epoch": 0}, r"trainer\.steps_per_epoch=0 is not valid"),
        ({"steps_per_epoch": 2.5}, r"trainer\.steps_per_epoch=2\.5 is not valid"),
        ({"log_every_steps": 0}, r"trainer\.log_every_steps=0 is not valid"),
        ({"clip_norm": 0.0}, r"trainer\.clip_norm=0\.0 is not valid"),
        ({"clip_norm": -1.0}, r"trainer\.clip_norm=-1\.0 is not valid"),
        ({"ema_decay": 0.0}, r"trainer\.ema_decay=0\.0 is not valid"),
        ({"ema_decay": 1.0}, r"trainer\.ema_decay=1\.0 is not valid"),
        ({"device": "tpu"}, r"trainer\.device='tpu' is unknown"),
        ({"precision": "fp64"}, r"trainer\.precision='fp64' is unknown"),
    ],
)
def test_bad_arguments_are_user_errors(options, message):
    with pytest.raises(UserError, match=message):
        make_trainer(**options)


@pytest.mark.parametrize(
    ("fixed", "deterministic", "expected"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_kernels_are_tried_out_where_shapes_stay_the_same(fixed, deterministic, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not expected)
    task = StubTask()
    task.has_fixed_shapes = fixed
    try:
        make_trainer(deterministic=deterministic).prepare(task)
        assert torch.backends.cudnn.benchmark == expected
    finally:
        torch.set_deterministic_debug_mode("default")


def test_the_best_checkpoint_keeps_what_its_own_validation_rows_said(tmp_path):
    task = StubTask(course=[3.0, 2.0, 2.5])
    trainer, asked = make_trainer(epochs=3), []

    def decisions(rows):
        asked.append(len(rows["ids"]))
        return {"bias": rows["bias"]}

    fit(trainer, task, tmp_path, decisions=decisions)
    assert asked == [NUM_VAL, NUM_VAL]  # in the two epochs that were the best so far
    best, last = (load_checkpoint(tmp_path / f"run{kind}.pt") for kind in ("", ".last"))
    assert last["decisions"] == {}
    task.load_state_dict(best["model"])
    rows = trainer.evaluate(task, val_loader(), title="again")
    torch.testing.assert_close(best["decisions"]["bias"], torch.from_numpy(rows["bias"]))
