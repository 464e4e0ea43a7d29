"""Reading many files in threads: decoding releases Python's lock, so threads do it side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from polymask.utils.cores import num_cores

Item = TypeVar("Item")
Value = TypeVar("Value")

_MOST_THREADS = 16


def read_ahead(read: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Yield `read(item)` for each item, in order, while threads read the next ones.

    Only a few values wait at a time, so memory does not grow with the number of items.

    Args:
        read: Called in threads; its first error, in the order of the items, is raised here.
        items: What to read.
    """
    # A few more than cores: some wait for the disk.
    num_threads = min(num_cores() + 2, _MOST_THREADS)
    waiting: deque[Future[Value]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
