from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from polymask.tracking import outbox as outbox_module
from polymask.tracking.outbox import Outbox


class Service:
    """Takes numbers while it is up, refuses negative ones."""

    def __init__(self) -> None:
        self.up = True
        self.taken: list[int] = []
        self.calls = 0

    def take(self, number: int) -> Callable[[], None]:
        def send() -> None:
            self.calls += 1
            if not self.up:
                raise ConnectionError("down\nfor maintenance")
            if number < 0:
                raise ValueError(f"{number} is negative")
            self.taken.append(number)

        return send

    def outbox(self) -> Outbox:
        return Outbox(
            "The service", session=nullcontext, is_refused=lambda error: isinstance(error, ValueError)
        )


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_what_could_not_be_sent_is_sent_later_in_order(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    outbox = service.outbox()
    outbox.put(service.take(1))
    service.up = False
    for number in (2, 3, 4):
        outbox.put(service.take(number))
    assert (service.taken, len(outbox)) == ([1], 3)
    service.up = True
    outbox.flush()
    assert (service.taken, len(outbox)) == ([1, 2, 3, 4], 0)
    assert warnings_of(caplog) == [
        "The service takes no records now (down for maintenance); the run goes on."
    ]


def test_a_service_that_is_away_is_not_asked_with_every_record() -> None:
    service = Service()
    outbox = service.outbox()
    service.up = False
    for number in range(50):
        outbox.put(service.take(number))
    assert service.calls == 1


def test_after_a_pause_the_next_record_takes_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_LEAST_PAUSE", 0.0)
    monkeypatch.setattr(outbox_module, "_PAUSE_PER_LOSS", 0)
    service = Service()
    outbox = service.outbox()
    service.up = False
    outbox.put(service.take(1))
    service.up = True
    outbox.put(service.take(2))
    assert service.taken == [1, 2]


def test_every_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    outbox = service.outbox()
    for _ in range(2):
        service.up = False
        outbox.put(service.take(1))
        outbox.flush()
        service.up = True
        outbox.flush()
    assert len(warnings_of(caplog)) == 2
    assert service.taken == [1, 1]


def test_a_refused_record_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    outbox = service.outbox()
    for number in (1, -2, 3):
        outbox.put(service.take(number))
    assert service.taken == [1, 3]
    assert warnings_of(caplog) == ["The service refused a record, which is left out: -2 is negative"]


def test_an_interruption_loses_nothing() -> None:
    service = Service()
    outbox = service.outbox()
    interrupted = []

    def interrupt_once() -> None:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        service.taken.append(1)

    with pytest.raises(KeyboardInterrupt):
        outbox.put(interrupt_once)
    outbox.put(service.take(2))
    assert service.taken == [1, 2]


def test_a_long_reason_is_cut_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ConnectionError("begin " + "x" * 5000 + " end")

    Service().outbox().put(fail)
    (text,) = warnings_of(caplog)
    assert len(text) < 320
    assert "(begin x" in text
    assert "x end)" in text
