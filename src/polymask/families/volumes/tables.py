"""The objects of a volume as a table: how large they are, how far they reach, and where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymask.utils.tables import csv_rows, csv_text

AXES = ("z", "y", "x")
TABLE_NAME = "objects.csv"


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes and places of N objects, those of label n in row n - 1; axes are z, y, x, in voxels.

    Attributes:
        voxels: (N,) int64 number of voxels, 0 where no voxel has the label.
        first: (N, 3) int64 first slice, row and column.
        stop: (N, 3) int64 the ones after the last.
        centres: (N, 3) float64 mean position, 0 in the middle of the first voxel; NaN without voxels.
    """

    voxels: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    centres: np.ndarray


def measure_shapes(labels: Iterable[np.ndarray], num_objects: int) -> Shapes:
    """Measure the objects of a volume slice by slice, so that a memory-mapped one is never read whole.

    Args:
        labels: Z slices (H, W) of integers, 0 is background.
        num_objects: N, the largest label.
    """
    voxels = np.zeros(num_objects, np.int64)
    sums = np.zeros((num_objects, 3))
    first = np.full((num_objects, 3), np.iinfo(np.int64).max)
    stop = np.zeros((num_objects, 3), np.int64)
    for z, page in enumerate(labels):
        rows, columns = np.nonzero(page)
        numbers = page[rows, columns].astype(np.intp) - 1
        counts = np.bincount(numbers, minlength=num_objects)
        voxels += counts
        places = (np.full(len(rows), z), rows, columns)
        for axis, values in enumerate(places):
            sums[:, axis] += np.bincount(numbers, values, num_objects)
            np.minimum.at(first[:, axis], numbers, values)
            np.maximum.at(stop[:, axis], numbers, values + 1)
    present = voxels > 0
    first[~present] = 0
    centres = np.full(sums.shape, np.nan)
    centres[present] = sums[present] / voxels[present, None]
    return Shapes(voxels=voxels, first=first, stop=stop, centres=centres)


def table_columns(voxel_size: Sequence[float] | None) -> tuple[str, ...]:
    """Return the columns of `objects.csv`, see `object_rows`."""
    empty = _row(0, 0, "", 0.0, (0, 0, 0), (0.0, 0.0, 0.0))
    return ("frame", *resized_row(empty, voxel_size))


def object_rows(
    labels: Iterable[np.ndarray],
    scores: Sequence[float] | np.ndarray,
    classes: Sequence[int] | np.ndarray,
    voxel_size: Sequence[float] | None,
    *,
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return one row per object of a volume.

    Args:
        labels: Z slices (H, W) of integers, 0 is background, n the n-th object.
        scores: (N,) scores.
        classes: (N,) class indices.
        voxel_size: Edges of a voxel along z, y, x in micrometres, None when unknown.
        class_names: Names of the K classes.

    Returns:
        `number` (from 1), `class`, `score`, `voxels`, `extent_…` (slices, rows, columns from the first to the
        last) and `centroid_…` for z, y, x, counted from the middle of the first voxel; with a voxel size also
        what `resized_row` adds.
    """
    shapes = measure_shapes(labels, len(scores))
    extents = (shapes.stop - shapes.first).tolist()
    rows = []
    for index, (label, score) in enumerate(zip(classes, scores, strict=True)):
        sizes = int(shapes.voxels[index]), class_names[int(label)], float(score)
        row = _row(index + 1, *sizes, extents[index], shapes.centres[index].tolist())
        rows.append(resized_row(row, voxel_size))
    return rows


def resized_row(row: Mapping[str, Any], voxel_size: Sequence[float] | None) -> dict[str, Any]:
    """Return a row in voxels with what follows from their size.

    Args:
        row: What `object_rows` returned without a voxel size.
        voxel_size: Edges of a voxel along z, y, x in micrometres; None leaves the row as it is.

    Returns:
        The row with `volume_um3`, `extent_…_um` and `centroid_…_um`.
    """
    if voxel_size is None:
        return dict(row)
    sizes = {"volume_um3": row["voxels"] * float(np.prod(voxel_size))}
    for name in ("extent", "centroid"):
        for axis, edge in zip(AXES, voxel_size, strict=True):
            sizes[f"{name}_{axis}_um"] = row[f"{name}_{axis}"] * edge
    # Six digits: the edge of a voxel may be any fraction of a micrometre.
    return {**row, **{name: float(f"{value:.6g}") for name, value in sizes.items()}}


def _row(
    number: int, voxels: int, name: str, score: float, extent: Sequence[int], centre: Sequence[float]
) -> dict[str, Any]:
    return {
        "number": number,
        "class": name,
        "score": round(score, 6),
        "voxels": voxels,
        **{f"extent_{axis}": value for axis, value in zip(AXES, extent, strict=True)},
        **{f"centroid_{axis}": round(value, 3) for axis, value in zip(AXES, centre, strict=True)},
    }


class ObjectTable:
    """Writes `objects.csv` frame by frame, so that memory does not grow with the data.

    Until `finish` the file has a temporary name: a reader never meets half of it.

    Args:
        folder: Where to write.
        voxel_size: Edges of a voxel along z, y, x in micrometres, None when unknown.
    """

    def __init__(self, folder: Path, *, voxel_size: Sequence[float] | None) -> None:
        self._path = folder / TABLE_NAME
        self._partial = folder / f".{TABLE_NAME}.partial"
        self._columns = table_columns(voxel_size)
        self._started = False

    def add(self, frame: str, rows: Iterable[Mapping[str, Any]], *, offset: int = 0) -> None:
        """Append the objects of one frame.

        Args:
            frame: Its id.
            rows: What `object_rows` returned.
            offset: What the numbers in its file are larger by, see `write_tracks`.
        """
        self._start()
        named = [{**row, "frame": frame, "number": row["number"] + offset} for row in rows]
        with self._partial.open("a", encoding="utf-8", newline="") as file:
            file.write(csv_rows(self._columns, named))

    def finish(self) -> None:
        """Give the file its name."""
        self._start()
        os.replace(self._partial, self._path)
        self._started = False

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            # What an interrupted run left under the temporary name is overwritten.
            self._partial.write_text(csv_text(self._columns, []), encoding="utf-8")
