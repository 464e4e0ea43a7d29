"""Records on their way to a service that may be away for a while."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from polymask.utils.interruption import uninterrupted

log = logging.getLogger(__name__)

_LEAST_PAUSE = 10.0  # seconds
_PAUSE_PER_LOSS = (
    20  # an attempt that took a minute in vain is repeated after 20 minutes: 5 % at most are lost
)


class Outbox:
    """Sends records in the order in which they came; what cannot be sent waits for a later attempt.

    Nothing raises: the first failure of an outage is logged as a warning, and then attempts are made from
    time to time only, since each may take as long as the service's time-out.

    Args:
        service: Name of the service, for messages.
        session: Entered around every attempt.
        is_refused: Says of an error whether the service took the record and found it wrong. Such a record is
            left out with a warning, since it would hold up all others for ever.
        send: Sends one record; by default a record is a function that sends itself.
        on_wait: Called with all records that wait after an attempt in vain, and with none once they are sent.
        on_put: Called with a record that only joins those that wait.
    """

    def __init__(
        self,
        service: str,
        *,
        session: Callable[[], AbstractContextManager[None]],
        is_refused: Callable[[Exception], bool],
        send: Callable[[Any], object] = lambda record: record(),
        on_wait: Callable[[list[Any]], object] = lambda records: None,
        on_put: Callable[[Any], object] = lambda record: None,
    ) -> None:
        self.service = service
        self.trouble = ""
        """Why the last attempt was in vain, "" when it was not."""
        self._session, self._is_refused, self._send = session, is_refused, send
        self._on_wait, self._on_put = on_wait, on_put
        self._waiting: deque[Any] = deque()
        self._reachable = True
        self._next_attempt = 0.0

    def __len__(self) -> int:
        """Return the number of records that wait."""
        return len(self._waiting)

    def restore(self, records: list[Any]) -> None:
        """Take the records of an earlier process, before any other."""
        self._waiting.extendleft(reversed(records))

    def waiting(self) -> list[Any]:
        """Return the records that wait."""
        return list(self._waiting)

    def append(self, record: Any) -> None:
        """Take a record without trying to send it."""
        self._waiting.append(record)

    def put(self, record: Any) -> None:
        """Take a record and try to send what waits, unless the service was away just now.

        Args:
            record: The record; sending it is tried until that returns.
        """
        self._waiting.append(record)
        if self._reachable or time.monotonic() >= self._next_attempt:
            self.flush()
        else:
            self._on_put(record)

    def flush(self) -> None:
        """Try now to send what waits, up to the first that fails."""
        begun = time.monotonic()
        try:
            with self._session():
                while self._waiting:
                    self._send_first()
            self._reachable, self.trouble = True, ""
        except Exception as error:
            self.trouble = _line(error)
            if self._reachable:
                log.warning("%s takes no records now (%s); the run goes on.", self.service, self.trouble)
            self._reachable = False
            now = time.monotonic()
            self._next_attempt = now + max(_LEAST_PAUSE, _PAUSE_PER_LOSS * (now - begun))
        finally:
            self._on_wait(list(self._waiting))

    def _send_first(self) -> None:
        # A record that is torn could be sent twice: a signal waits until it is sent.
        with uninterrupted():
            try:
                self._send(self._waiting[0])
            except Exception as error:
                if not self._is_refused(error):
                    raise
                log.warning("%s refused a record, which is left out: %s", self.service, _line(error))
            self._waiting.popleft()


def _line(error: Exception) -> str:
    """Return an error as one line that fits on a screen; the cause often stands at its end."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:110]} ... {text[-120:]}"
