"""Records on their way to a service that may be away for a while."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

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
    """

    def __init__(
        self,
        service: str,
        *,
        session: Callable[[], AbstractContextManager[None]],
        is_refused: Callable[[Exception], bool],
    ) -> None:
        self.service = service
        self._session, self._is_refused = session, is_refused
        self._waiting: deque[Callable[[], object]] = deque()
        self._reachable = True
        self._next_attempt = 0.0

    def __len__(self) -> int:
        """Return the number of records that wait."""
        return len(self._waiting)

    def put(self, send: Callable[[], object]) -> None:
        """Take a record and try to send what waits, unless the service was away just now.

        Args:
            send: Sends the record; called until it returns.
        """
        self._waiting.append(send)
        if self._reachable or time.monotonic() >= self._next_attempt:
            self.flush()

    def flush(self) -> None:
        """Try now to send what waits, up to the first that fails."""
        begun = time.monotonic()
        try:
            with self._session():
                while self._waiting:
                    self._send_first()
            self._reachable = True
        except Exception as error:
            if self._reachable:
                log.warning("%s takes no records now (%s); the run goes on.", self.service, _line(error))
            self._reachable = False
            now = time.monotonic()
            self._next_attempt = now + max(_LEAST_PAUSE, _PAUSE_PER_LOSS * (now - begun))

    def _send_first(self) -> None:
        try:
            self._waiting[0]()
        except Exception as error:
            if not self._is_refused(error):
                raise
            log.warning("%s refused a record, which is left out: %s", self.service, _line(error))
        self._waiting.popleft()


def _line(error: Exception) -> str:
    """Return an error as one line that fits on a screen; the cause often stands at its end."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:110]} ... {text[-120:]}"
