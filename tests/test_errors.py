from __future__ import annotations

import pytest

from polymask.errors import UserError, number

UNIT = {"least": 0, "most": 1}


@pytest.mark.parametrize(
    ("value", "bounds", "allowed"),
    [
        (-0.5, {"least": 0}, "give a number of at least 0."),
        (0, {"above": 0}, "give a number above 0."),
        (1.5, {"least": 0, "most": 1}, "give a number of at least 0 and at most 1."),
        (1, {"above": 0, "below": 1}, "give a number above 0 and below 1."),
        (float("nan"), {"least": 0}, "give a number of at least 0."),
        (float("inf"), {"least": 0}, "give a number of at least 0."),
        (True, {"least": 0}, "give a number of at least 0."),
        (None, {"least": 0}, "give a number of at least 0."),
        ("1e-3", {"least": 0}, "give a number of at least 0, e.g. 1.0e-3."),
        (0, {"above": 0, "what": "micrometres", "note": "or null"}, "give micrometres above 0, or null."),
    ],
)
def test_numbers_out_of_bounds_are_told(value, bounds, allowed):
    with pytest.raises(UserError) as told:
        number("a.key", value, **bounds)
    assert str(told.value) == f"a.key={value!r} is not valid; {allowed}"


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0, {"least": 0, "most": 1}),
        (1, {"least": 0, "most": 1}),
        (0.999, {"above": 0, "below": 1}),
        (-7.5, {}),
    ],
)
def test_numbers_within_bounds_stay(value, bounds):
    assert number("a.key", value, **bounds) is value
