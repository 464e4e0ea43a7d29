"""Numbers and their names as people read them."""

from __future__ import annotations

import math

import pytest

from polymask.reporting.page.numbers import common_axis, number, readable, shown, with_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91236, "0.912"), (12.3456, "12.346"), (123.456, "123"), (12345.6, "12,346"), (-0.25, "-0.250"),
     (0.0001234, "0.000123"), (3.0, "3"), (1234, "1,234"), (math.nan, "–"), (math.inf, "inf")],  # noqa: RUF001
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert shown(value) == text


def test_a_share_of_one_is_no_count() -> None:
    assert (number(1.0).text, number(1).text, number(None).text) == ("1.000", "1", "–")  # noqa: RUF001
    assert float(number(1 / 3).exact) == 1 / 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f1_macro", "F1 macro"),
        ("auroc_MEL", "AUROC MEL"),
        ("num_samples", "Number of samples"),
        ("p_value", "p-value"),
    ],
)
def test_names(name: str, text: str) -> None:
    assert readable(name) == text


@pytest.mark.parametrize(
    ("values", "axis"),
    [([0.2, 0.9], (0, 1)), ([-0.03, 0.012], (-0.03, 0.03)), ([-0.031, 0.0], (-0.04, 0.04)), ([12.0], None),
     ([None], None), ([0.5, 80.0], (0, 1)), ([-0.95], (-1, 1))],
)  # fmt: skip
def test_axes(values: list[float], axis: tuple[float, float] | None) -> None:
    assert common_axis(values) == (axis if axis is None else pytest.approx(axis))


def test_a_bar_of_a_difference_has_its_zero_in_the_middle() -> None:
    bar = with_interval(0.05, -0.05, 0.1, axis=(-0.1, 0.1)).bar
    assert bar is not None
    assert (bar.start, bar.length, bar.mark, bar.zero) == (25, 75, 75, 50)
    assert with_interval(5.0, 0.1, 9.0, axis=(0, 1)).bar is None
    assert with_interval(0.5, math.nan, math.nan).low is None
