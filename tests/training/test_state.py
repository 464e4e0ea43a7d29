from __future__ import annotations

import pytest

from polymask.training.state import TrainingState

NAN = float("nan")


def run(values: list[float], mode: str = "min") -> tuple[TrainingState, list[bool]]:
    state = TrainingState()
    return state, [bool(state.end_epoch({"val/x": value}, "val/x", mode)) for value in values]


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [3.0, 2.0, 2.5, 1.0], [True, True, False, True]),
        ("max", [3.0, 2.0, 3.5, 4.0], [True, False, True, True]),
        ("min", [-1.0, -2.0], [True, True]),
        ("max", [0.0, -1.0, 0.0], [True, False, False]),  # equal is not better
        ("min", [NAN, 2.0, NAN, 1.0], [False, True, False, True]),
        ("max", [NAN, -2.0, NAN, -1.0], [False, True, False, True]),
    ],
)
def test_best_epochs(mode, values, best):
    assert run(values, mode)[1] == best


def test_course_is_counted():
    state, _ = run([3.0, 1.0, 2.0, NAN])
    assert (state.epoch, state.best_value, state.best_epoch, state.epochs_since_best) == (4, 1.0, 2, 2)
    assert [row["epoch"] for row in state.history] == [1, 2, 3, 4]
    assert [row["val/x"] for row in state.history[:3]] == [3.0, 1.0, 2.0]


def test_nothing_but_nan_has_no_best():
    state, _ = run([NAN, NAN])
    assert (state.best_value, state.best_epoch, state.epochs_since_best) == (None, 0, 2)


@pytest.mark.parametrize(
    ("values", "epochs", "patience", "stop"),
    [
        ([], 1, 1, False),
        ([1.0], 1, None, True),
        ([1.0, 2.0, 3.0], 9, None, False),
        ([1.0, 2.0, 3.0], 9, 3, False),
        ([1.0, 2.0, 3.0, 4.0], 9, 3, True),
        ([1.0, 2.0, 3.0, 0.5], 9, 3, False),
        ([NAN, NAN], 9, 2, True),
    ],
)
def test_stops_when_epochs_are_done_or_patience_has_run_out(values, epochs, patience, stop):
    assert run(values)[0].should_stop(epochs=epochs, patience=patience) is stop


def test_state_dict_restores_the_state_and_shares_nothing_with_it():
    state, _ = run([3.0, 1.0])
    content = state.state_dict()
    restored = TrainingState(**content)
    assert restored == state
    content["history"][0]["val/x"] = 99.0
    assert state.history[0]["val/x"] == 3.0
