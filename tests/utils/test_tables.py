from __future__ import annotations

import csv
import io

import pytest

from polymask.utils.numbers import none_for_nan
from polymask.utils.tables import csv_rows, csv_text


def test_rows_by_name_and_in_order_give_one_table() -> None:
    by_name = [{"b": 2, "a": 'x, "y"\nz'}, {"b": 0.25}]
    in_order = [('x, "y"\nz', 2), (None, 0.25)]
    text = csv_text(("a", "b"), by_name)
    assert text == csv_text(("a", "b"), in_order) == 'a,b\n"x, ""y""\nz",2\n,0.25\n'
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read == [{"a": 'x, "y"\nz', "b": "2"}, {"a": "", "b": "0.25"}]
    assert csv_text(("a", "b"), []) + csv_rows(("a", "b"), by_name) == text


def test_a_cell_without_a_column_does_not_vanish() -> None:
    with pytest.raises(AssertionError, match="cells of no column"):
        csv_text(("a",), [{"a": 1, "b": 2}])


def test_only_nan_becomes_none() -> None:
    values = [float("nan"), 0.0, float("inf"), "nan", 3, None]
    assert [none_for_nan(value) for value in values] == [None, *values[1:]]
