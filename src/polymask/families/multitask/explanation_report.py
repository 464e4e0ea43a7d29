"""The part of a test report on explanations: a map per sample, its share inside of the lesion, a sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from polymask.data.images import write_image
from polymask.data.records import Record
from polymask.families.multitask.explanations import FOLDER
from polymask.metrics.explanations import CHANCE, INSIDE, inside_share
from polymask.metrics.rows import ORIGINAL
from polymask.reporting import figures
from polymask.reporting.canvas import heat_tile
from polymask.structures.samples import Rows

COLUMNS = {name.replace("_image", ""): name for name in (INSIDE, CHANCE)}
"""Columns of the table of samples, and those of the rows."""
_SHOWN = 12


class ExplanationReport:
    """Keeps two numbers of each explanation and writes the map itself to `explanations/{id}.png`, in grey.

    Args:
        folder: Of the test report.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shares: dict[str, tuple[float, float]] = {}

    def add(self, id_: str, heat: np.ndarray, true: np.ndarray | None) -> None:
        """Take an explanation.

        Args:
            id_: Id of the sample.
            heat: (H, W) float in [0, 1] at the image's own size.
            true: (H, W) uint8, 0 = background and 255 = ignore; None when it is unknown.
        """
        nothing = float("nan"), float("nan")
        self._shares[id_] = nothing if true is None else inside_share(heat, true)
        write_image(self._path(id_), cv2.convertScaleAbs(heat, alpha=255))  # no second copy as floats

    def complete(self, rows: Rows) -> Rows:
        """Return the rows with `INSIDE` and `CHANCE` (N,), as they are where no sample has a mask."""
        if not any(math.isfinite(inside) for inside, _ in self._shares.values()):
            return rows
        shares = np.array([self._shares[id_] for id_ in rows["ids"].tolist()])
        return {**rows, INSIDE: shares[:, 0], CHANCE: shares[:, 1]}

    def heat(self, id_: str) -> np.ndarray | None:
        """Return the (H, W) float32 map of a sample, as large as its image; None where there is none."""
        if not self._path(id_).is_file():
            return None
        heat = np.asarray(cv2.imread(str(self._path(id_)), cv2.IMREAD_GRAYSCALE))
        return heat.astype(np.float32) / 255

    def write_sheet(self, lines: Sequence[Mapping[Any, Any]], record_of: Callable[[str], Record]) -> None:
        """Write `explanations.png`: samples from the least to the largest share inside of the lesion.

        Args:
            lines: Those of the table of samples.
            record_of: The sample of an id.
        """
        lines = [line for line in lines if self._path(line["id"]).is_file()]
        if not lines:
            return
        ordered = sorted(lines, key=_inside)
        places = np.unique(np.linspace(0, len(ordered) - 1, _SHOWN).round().astype(int))
        shown = [ordered[place] for place in places]
        pictures = []
        for line in shown:
            record = record_of(line["id"])
            image = record.read_image()
            heat = self.heat(line["id"])
            assert heat is not None
            true = (record.read_mask() == 1).astype(np.uint8) if record.has_mask else None
            pictures.append(heat_tile(image, true, heat))
        figures.plot_sample_sheet(pictures, list(map(_title, shown)), self.folder / "explanations.png")

    def _path(self, id_: str) -> Path:
        return self.folder / FOLDER / f"{id_}.png"


def explanation_columns(rows: Rows) -> dict[str, np.ndarray]:
    """Return what the table says of each explanation; nothing of tests without."""
    return {column: rows[name] for column, name in COLUMNS.items() if name in rows}


def _inside(line: Mapping[Any, Any]) -> float:
    """Return the share inside, which is behind all others where there is none."""
    share = line.get(f"explanation_inside_lesion{ORIGINAL}", math.nan)
    return math.inf if math.isnan(share) else share


def _title(line: Mapping[Any, Any]) -> str:
    words = f"{line['id']}: {line['predicted']}, true {line['label'] or '?'}"
    inside, chance = (line.get(name, math.nan) for name in COLUMNS)
    return words if math.isnan(inside) else f"{words}; {inside:.0%} inside, by chance {chance:.0%}"
