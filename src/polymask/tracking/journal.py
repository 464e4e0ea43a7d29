"""Records that a tracker has not taken yet, in a file, so that they outlive the process."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.errors import UserError
from polymask.utils.files import write_text
from polymask.utils.interruption import uninterrupted

log = logging.getLogger(__name__)

Record = dict[str, Any]


class Journal:
    """One JSON object a line: what the tracker knows of the run, then each record that waits, in order.

    There is a file only while something waits. Trouble with it is a warning: training goes on.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_silent = False

    def read(self) -> tuple[dict[str, Any], list[Record]]:
        """Return what the tracker knew and the records; both empty when nothing waits."""
        if not self.path.is_file():
            return {}, []
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:  # the last line of a process that was killed while it wrote
                break
        return (entries[0], entries[1:]) if entries else ({}, [])

    def replace(self, known: Mapping[str, Any], records: Sequence[Record]) -> None:
        """Keep these records and no others; without any the file is removed."""
        try:
            if records:
                write_text(self.path, "".join(f"{json.dumps(entry)}\n" for entry in (known, *records)))
            else:
                self.path.unlink(missing_ok=True)
        except (OSError, UserError) as error:
            self._complain(error)

    def append(self, record: Record) -> None:
        """Keep one more record."""
        try:
            with uninterrupted(), self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(record)}\n")
        except OSError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._is_silent:
            log.warning("what the tracker has not taken cannot be kept for later: %s", error)
        self._is_silent = True
