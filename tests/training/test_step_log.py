from __future__ import annotations

import pytest
import torch

from polymask.errors import UserError
from polymask.training.step_log import Point, StepLog, Window


@pytest.mark.parametrize("every", [1, 3, 100])
def test_means_over_all_steps_whenever_they_are_read(every):
    log = StepLog(every=every)
    values = [0.5, 1.25, 3.0, 0.0, 2.25]
    for number, value in enumerate(values):
        log.add({"loss": torch.tensor(value), "loss_dice": torch.tensor(2.0 * number)}, [f"s{number}"])
    assert log.means() == {"loss": sum(values) / 5, "loss_dice": 4.0}


def test_values_of_several_types_and_with_a_graph():
    log = StepLog(every=2)
    weight = torch.ones((), requires_grad=True)
    for _ in range(2):
        log.add({"loss": 2 * weight, "half": torch.tensor(0.5, dtype=torch.bfloat16)}, ["a"])
    assert log.means() == {"loss": 2.0, "half": 0.5}


def test_no_steps_have_no_means():
    assert StepLog(every=1).means() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_loss_that_is_not_finite_is_a_user_error_naming_parts_and_samples(value):
    log = StepLog(every=1)
    log.add({"loss": torch.tensor(1.0)}, ["good"])
    with pytest.raises(UserError) as caught:
        log.add({"loss": torch.tensor(value), "loss_dice": torch.tensor(0.25)}, ["bad_1", "bad_2"])
    message = str(caught.value)
    assert f"(loss={value:g}, loss_dice=0.25) for the samples bad_1, bad_2;" in message
    assert "optimizer.learning_rate" in message
    assert "\n" not in message


def test_waiting_values_are_checked_at_the_next_read_at_the_latest_with_the_means():
    log = StepLog(every=3)
    log.add({"loss": torch.tensor(1.0)}, ["a"])
    log.add({"loss": torch.tensor(float("nan"))}, ["b"])
    with pytest.raises(UserError, match="for the samples b;"):
        log.add({"loss": torch.tensor(1.0)}, ["c"])
    log = StepLog(every=3)
    log.add({"loss": torch.tensor(float("nan"))}, ["d"])
    with pytest.raises(UserError, match="for the samples d;"):
        log.means()


def test_only_the_loss_must_be_finite():
    log = StepLog(every=1)
    log.add({"loss": torch.tensor(1.0), "part": torch.tensor(float("inf"))}, ["a"])
    assert log.means() == {"loss": 1.0, "part": float("inf")}


@pytest.mark.parametrize("every", [1, 3, 100])
def test_points_are_means_since_the_point_before_whenever_they_are_read(every):
    log, closes = StepLog(every=every), {1: {"step": 2}, 2: {"step": 3}, 6: {"step": 7}}
    for number in range(8):
        parts = {"loss": torch.tensor(2.0**number), "part": torch.tensor(float(number))}
        log.add(parts, ["a"], point=closes.get(number))
    log.read()
    assert log.points == [
        Point({"step": 2}, {"loss": 1.5, "part": 0.5}),
        Point({"step": 3}, {"loss": 4.0, "part": 2.0}),
        Point({"step": 7}, {"loss": 30.0, "part": 4.5}),
    ]
    assert log.window == Window({"loss": 128.0, "part": 7.0}, 1)
    assert log.means() == {"loss": 255 / 8, "part": 3.5}


def test_first_point_takes_up_what_an_epoch_before_left():
    log = StepLog(every=1, window=Window({"loss": 6.0}, 2))
    log.add({"loss": torch.tensor(3.0)}, ["a"], point={"step": 3})
    assert log.points == [Point({"step": 3}, {"loss": 3.0})]
    assert log.means() == {"loss": 3.0}
    log = StepLog(every=1, window=Window({"loss": 6.0}, 2))
    log.add({"loss": torch.tensor(0.0)}, ["a"], point={"step": 3})
    assert log.points == [Point({"step": 3}, {"loss": 2.0})]
    assert log.means() == {"loss": 0.0}
