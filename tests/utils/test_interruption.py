from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from polymask.utils import interruption
from polymask.utils.files import write_atomically
from polymask.utils.interruption import Interrupted, interruptible, raise_if_interrupted, uninterrupted


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_both_signals_interrupt_and_are_told_apart(number: int, status: int) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        with pytest.raises(Interrupted):
            send(number)
        assert interruption.was_interrupted()
        assert interruption.exit_status() == status
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    with interruptible():
        assert not interruption.was_interrupted()


def test_a_signal_waits_for_the_end_of_nested_blocks() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            with uninterrupted():
                send()
                done.append(1)
            done.append(2)

    with interruptible(), pytest.raises(Interrupted):
        work()
    assert done == [1, 2]


def test_a_second_signal_does_not_wait() -> None:
    with interruptible(), uninterrupted():
        send()
        with pytest.raises(Interrupted):
            send()


def test_an_interruption_that_was_swallowed_is_raised_again() -> None:
    class Careless:
        def __del__(self) -> None:
            with suppress(KeyboardInterrupt):
                send()

    with interruptible():
        raise_if_interrupted()
        Careless()
        with pytest.raises(Interrupted):
            raise_if_interrupted()


def test_a_file_is_written_whole_when_a_signal_comes_within(tmp_path: Path) -> None:
    class Sender:
        """Sends the signal while torch, in C, is writing."""

        def __init__(self, file: object) -> None:
            self.file, self.calls = file, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            self.calls += 1
            if self.calls == 3:
                send()
            return self.file.write(data)  # type: ignore[attr-defined]

    content = {"weights": torch.arange(10_000)}
    with interruptible(), pytest.raises(Interrupted):
        write_atomically(tmp_path / "a.pt", lambda file: torch.save(content, Sender(file)))
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["weights"], content["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
