from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    StepLR,
)

from polymask.errors import UserError
from polymask.training import schedulers
from polymask.training.schedulers import Schedule

EPOCHS, STEPS = 6, 5
PEAKS = [0.4, 0.02]

KINDS = {
    "constant": schedulers.constant,
    "cosine": partial(schedulers.cosine, warmup_epochs=1.4, final_factor=0.1),
    "poly": partial(schedulers.poly, warmup_epochs=0.5, power=0.9),
    "step": partial(schedulers.step, step_epochs=2, factor=0.5),
    "milestones": partial(schedulers.milestones, milestones=[4, 5, 11], factor=0.5, warmup_steps=3),
    "one_cycle": partial(schedulers.one_cycle, warmup_share=0.3),
    "plateau": partial(schedulers.plateau, factor=0.5, patience=1, min_learning_rate=1e-4),
}
MONITORED = [1.0, 0.9, 0.95, 0.92, 0.91, 0.8]


def make_optimizer() -> SGD:
    return SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in PEAKS], momentum=0.9)


def start(build: Callable[..., Schedule], epochs: int = EPOCHS) -> tuple[SGD, Schedule]:
    optimizer = make_optimizer()
    return optimizer, build(optimizer, steps_per_epoch=STEPS, epochs=epochs, mode="min")


def go(optimizer: Optimizer, schedule: Schedule, epochs: range) -> list[list[float]]:
    """The rate of each group in each step of `epochs`."""
    rates = []
    for epoch in epochs:
        for _ in range(STEPS):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.end_step()
        schedule.end_epoch(MONITORED[epoch % len(MONITORED)])
    return rates


def course(build: Callable[..., Schedule]) -> torch.Tensor:
    """(steps, groups) learning rates of a whole run."""
    return torch.tensor(go(*start(build), range(EPOCHS)), dtype=torch.double)


def torch_course(build: Callable[[Optimizer], LRScheduler], *, every: int = 1) -> torch.Tensor:
    """The same of a scheduler of torch that moves after every `every` steps."""
    optimizer = make_optimizer()
    scheduler, rates = build(optimizer), []
    for done in range(1, EPOCHS * STEPS + 1):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if done % every == 0:
            scheduler.step()
    return torch.tensor(rates, dtype=torch.double)


def assert_course(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def shared(factors: list[float]) -> torch.Tensor:
    """The course whose rates are `factors` times the peaks."""
    return torch.tensor(factors, dtype=torch.double)[:, None] * torch.tensor(PEAKS, dtype=torch.double)


def test_constant_keeps_the_rate():
    assert_course(course(schedulers.constant), shared([1.0] * 30))


def test_cosine_without_warmup_is_that_of_torch():
    found = course(partial(schedulers.cosine, warmup_epochs=0, final_factor=0.0))
    assert_course(found, torch_course(lambda o: CosineAnnealingLR(o, EPOCHS * STEPS, eta_min=0.0)))


def test_cosine_warms_up_in_equal_steps_and_falls_to_its_final_factor():
    warmup, rest = 7, 23  # 1.4 epochs of 5 steps; 6 epochs in all
    factors = [(step + 1) / 8 for step in range(warmup)]
    factors += [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / rest)) for step in range(rest)]
    assert_course(course(KINDS["cosine"]), shared(factors))


def test_poly_without_warmup_is_that_of_torch():
    found = course(partial(schedulers.poly, power=0.9))
    assert_course(found, torch_course(lambda o: PolynomialLR(o, total_iters=EPOCHS * STEPS, power=0.9)))


def test_poly_with_warmup_by_hand():
    factors = [1 / 3, 2 / 3] + [(1 - step / 28) ** 0.9 for step in range(28)]
    assert_course(course(KINDS["poly"]), shared(factors))


def test_step_is_that_of_torch():
    assert_course(course(KINDS["step"]), torch_course(lambda o: StepLR(o, 2, gamma=0.5), every=STEPS))


def test_milestones_are_those_of_torch_after_a_rise_in_equal_steps():
    steps = [7, 8, 21]
    found = course(partial(schedulers.milestones, milestones=steps, factor=0.2))
    assert_course(found, torch_course(lambda o: MultiStepLR(o, steps, gamma=0.2)))
    factors = [0.25, 0.5, 0.75, 1.0, 0.5] + [0.25] * 6 + [0.125] * 19
    assert_course(course(KINDS["milestones"]), shared(factors))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"milestones": [5, 3]}, r"milestones=\[5, 3\] is not valid; .* e\.g\. \[3, 5\]\.$"),
        ({"milestones": [5, 5]}, r"milestones=\[5, 5\] is not valid"),
        ({"milestones": [0]}, "milestones=0 is not valid"),
        ({"milestones": [2.5]}, "milestones=2.5 is not valid"),
        ({"milestones": [5], "factor": 0}, "factor=0 is not valid"),
        ({"milestones": [5], "warmup_steps": -1}, "warmup_steps=-1 is not valid"),
    ],
)
def test_milestones_that_make_no_course_are_told_in_one_line(options, message):
    with pytest.raises(UserError, match=message):
        start(partial(schedulers.milestones, **options))


@pytest.mark.parametrize("build", [schedulers.cosine, schedulers.poly])
def test_warmup_may_be_a_share_of_all_steps(build):
    by_share = course(partial(build, warmup_share=0.2))  # of 30 steps
    assert_course(by_share, course(partial(build, warmup_epochs=1.2)))
    assert_course(course(partial(build, warmup_epochs=0, warmup_share=0.2)), by_share)
    assert_course(course(partial(build, warmup_share=0)), course(partial(build, warmup_epochs=0)))
    with pytest.raises(UserError, match=r"warmup_epochs=1 and scheduler\.warmup_share=0\.2 both set"):
        start(partial(build, warmup_epochs=1, warmup_share=0.2))
    with pytest.raises(UserError, match=r"warmup_share=2 is not valid"):
        start(partial(build, warmup_share=2))


def test_without_a_word_of_warmup_cosine_has_an_epoch_of_it_and_poly_none():
    assert_course(course(schedulers.cosine), course(partial(schedulers.cosine, warmup_epochs=1)))
    assert_course(course(schedulers.poly), course(partial(schedulers.poly, warmup_epochs=0)))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_one_cycle_is_that_of_torch_and_leaves_the_momentum(share):
    def build(optimizer: Optimizer) -> OneCycleLR:
        total = EPOCHS * STEPS + 1
        return OneCycleLR(optimizer, PEAKS, total_steps=total, pct_start=share, cycle_momentum=False)

    assert_course(course(partial(schedulers.one_cycle, warmup_share=share)), torch_course(build))
    optimizer, schedule = start(KINDS["one_cycle"])
    go(optimizer, schedule, range(3))
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_plateau_by_hand():
    # Epochs 3 and 4 are no better than epoch 2: more than a patience of 1, so epoch 5 has half the rate;
    # epoch 5 is no better either, but alone.
    factors = [1.0] * 4 * STEPS + [0.5] * 2 * STEPS
    assert_course(course(KINDS["plateau"]), shared(factors))


def test_plateau_of_a_metric_to_maximise_counts_the_other_way():
    optimizer = make_optimizer()
    schedule = schedulers.plateau(optimizer, steps_per_epoch=1, epochs=9, mode="max", factor=0.5, patience=0)
    rates = []
    for value in (0.1, 0.2, 0.3, 0.25, float("nan")):
        schedule.end_epoch(value)
        rates.append(optimizer.param_groups[0]["lr"] / PEAKS[0])
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.25]


def test_plateau_stops_at_the_least_rate():
    optimizer = make_optimizer()
    schedule = schedulers.plateau(
        optimizer, steps_per_epoch=1, epochs=9, mode="min", factor=0.1, patience=0, min_learning_rate=0.01
    )
    for _ in range(5):
        schedule.end_epoch(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [1, 3, 5])
def test_resume_continues_exactly_through_a_file(kind, done):
    whole = go(*start(KINDS[kind]), range(EPOCHS))
    optimizer, schedule = start(KINDS[kind])
    go(optimizer, schedule, range(done))
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    optimizer, schedule = start(KINDS[kind])
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    assert go(optimizer, schedule, range(done, EPOCHS)) == whole[done * STEPS :]


@pytest.mark.parametrize("kind", KINDS)
def test_finished_run_goes_on_with_more_epochs(kind):
    optimizer, schedule = start(KINDS[kind])
    go(optimizer, schedule, range(EPOCHS))
    content = optimizer.state_dict(), schedule.state_dict()
    optimizer, schedule = start(KINDS[kind], epochs=2 * EPOCHS)
    optimizer.load_state_dict(content[0])
    schedule.load_state_dict(content[1])
    rates = go(optimizer, schedule, range(EPOCHS, 2 * EPOCHS))
    # From its first step on, as if the run had been that long from the start.
    assert rates == go(*start(KINDS[kind], epochs=2 * EPOCHS), range(2 * EPOCHS))[30:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (0, 3), (2, 1)])
def test_shortest_runs_have_a_course(kind, steps, epochs):
    optimizer = make_optimizer()
    schedule = KINDS[kind](optimizer, steps_per_epoch=steps, epochs=epochs, mode="min")
    for _ in range(steps * epochs + 2):  # beyond the end the rate stays
        assert 0 <= optimizer.param_groups[0]["lr"] <= PEAKS[0]
        optimizer.step()
        schedule.end_step()


def test_a_first_step_that_fp16_left_out_is_nothing_to_warn_of():
    _, schedule = start(schedulers.cosine)
    schedule.end_step()  # the optimizer's own step did not come: warnings are errors here
