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


@pytest.mark.parametrize(("cores", "processes", "expected"), [(8, 1, 8), (8, 3, 2), (2, 4, 1)])
def test_the_cores_are_shared_by_the_processes(monkeypatch, caplog, cores, processes, expected):
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    with caplog.at_level(logging.INFO):
        assert use_threads(None) == torch.get_num_threads() == expected
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{expected} threads per process")


def test_the_environment_and_the_key_win(monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert use_threads(None) == 3
    assert use_threads(2) == torch.get_num_threads() == 2


@pytest.mark.parametrize("value", [0, "all", 1.5])
def test_no_number_of_threads(value):
    with pytest.raises(UserError, match=r"trainer\.threads="):
        use_threads(value)


def test_a_busy_machine_is_told(monkeypatch, caplog):
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.9, 0.5, 0.5))
    use_threads(None)
    assert "load 9.9" in caplog.messages[-1]
    caplog.clear()
    use_threads(1)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_only_one_process_says_so(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO):
        use_threads(1)
    assert not caplog.messages
    assert "OMP_NUM_THREADS" not in os.environ
