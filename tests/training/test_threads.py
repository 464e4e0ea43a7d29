from __future__ import annotations

import logging
import os

import pytest
import torch

from polymask.errors import UserError
from polymask.training import threads
from polymask.training.threads import use_threads


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "busy", "processes", "expected"),
    [(8, 0.4, 1, 8), (8, 5.0, 1, 3), (2, 0.9, 1, 1), (2, 2.0, 1, 1), (8, 8.0, 3, 2), (2, 0.0, 4, 1)],
)
def test_a_process_takes_the_cores_that_are_left_to_it(monkeypatch, caplog, cores, busy, processes, expected):
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    monkeypatch.setattr(threads, "busy_cores", lambda: busy)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with caplog.at_level(logging.INFO):
        assert use_threads(None) == torch.get_num_threads() == expected
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"computing with {expected} thread")


def test_the_environment_and_the_key_win(monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert use_threads(None) == 3
    assert use_threads(2) == torch.get_num_threads() == 2


@pytest.mark.parametrize("value", [0, "all", 1.5])
def test_no_number_of_threads(value):
    with pytest.raises(UserError, match=r"trainer\.threads="):
        use_threads(value)


def test_a_run_goes_on_with_the_threads_it_had(monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 4)
    monkeypatch.setattr(threads, "busy_cores", lambda: 3.0)
    assert use_threads(None, before=2) == 2
    assert use_threads(None, before=9) == 4  # on a smaller machine
    assert use_threads(3, before=2) == 3


def test_only_one_process_says_so(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO):
        use_threads(1)
    assert not caplog.messages
    assert "OMP_NUM_THREADS" not in os.environ
