"""The two files that hold the objects of many images: `instances.csv` and `instances.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polymask.families.instances.tables import sizes, table_columns
from polymask.utils.tables import csv_rows, csv_text

_TABLE, _RESULTS = "instances.csv", "instances.json"


class InstanceFiles:
    """Takes objects image by image, so that memory does not grow with the data.

    Until `finish` the files have temporary names: a reader never meets half of them.

    Args:
        folder: Where to write.
        pixel_size: Side of a pixel in micrometres, None when unknown.
    """

    def __init__(self, folder: Path, *, pixel_size: float | None) -> None:
        self.folder, self.pixel_size = folder, pixel_size
        self._columns = table_columns(pixel_size)
        self._started = False
        self._any_result = False

    def add(self, rows: Iterable[Mapping[str, Any]], results: Iterable[Mapping[str, Any]]) -> None:
        """Append the objects of one image.

        Args:
            rows: What `instance_rows` returned: the objects that count.
            results: What `coco_results` returned: all objects.
        """
        self._start()
        measured = [{**row, **sizes(row["area_pixels"], self.pixel_size)} for row in rows]
        self._append(_TABLE, csv_rows(self._columns, measured))
        # One object per line, for tools that look at lines.
        lines = [json.dumps(result, separators=(",", ":")) for result in results]
        if lines:
            self._append(_RESULTS, (",\n" if self._any_result else "\n") + ",\n".join(lines))
            self._any_result = True

    def finish(self) -> None:
        """Give the files their names."""
        self._start()
        self._append(_RESULTS, "\n]\n")
        for name in (_TABLE, _RESULTS):
            os.replace(self._temporary(name), self.folder / name)
        self._started = self._any_result = False

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self.folder.mkdir(parents=True, exist_ok=True)
            # What an interrupted run left under the temporary names is overwritten.
            self._temporary(_TABLE).write_text(csv_text(self._columns, []), encoding="utf-8")
            self._temporary(_RESULTS).write_text("[")

    def _append(self, name: str, text: str) -> None:
        with self._temporary(name).open("a", encoding="utf-8", newline="") as file:
            file.write(text)

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.partial"
