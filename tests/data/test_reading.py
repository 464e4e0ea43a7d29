from __future__ import annotations

import threading
import time
from itertools import islice

import pytest

from polymask.data.reading import num_cores, read_ahead


def test_values_come_in_the_order_of_the_items_however_long_each_takes():
    def read(item: int) -> int:
        time.sleep(0.004 * (item % 3 == 0))
        return item * item

    assert list(read_ahead(read, range(100))) == [item * item for item in range(100)]
    assert list(read_ahead(read, [])) == []


def test_reading_keeps_only_a_little_ahead_of_its_user():
    begun = []
    values = read_ahead(lambda item: begun.append(item) or item, range(10_000))
    for taken in range(1, 20):
        next(values)
        time.sleep(0.001)
        assert len(begun) <= taken + num_cores() + 3
    values.close()
    assert len(begun) < 100


def test_several_threads_read_at_once():
    both = threading.Barrier(2, timeout=10)
    assert list(read_ahead(lambda item: both.wait() >= 0, range(2))) == [True, True]


def test_error_comes_in_its_turn():
    def read(item: int) -> int:
        if item == 5:
            raise KeyError("item 5")
        time.sleep(0.002)
        return item

    values = read_ahead(read, range(50))
    assert list(islice(values, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="item 5"):
        next(values)
