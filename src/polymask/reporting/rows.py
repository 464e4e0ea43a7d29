"""The rows of a tested run on disk: what all its metrics are computed from, one row per sample."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.errors import UserError
from polymask.utils.files import write_atomically
from polymask.utils.names import check_inside

SAMPLES_NAME = "samples.npz"


def write_samples(folder: Path, rows: Mapping[str, np.ndarray], groups: Sequence[str]) -> None:
    """Write `samples.npz`.

    Args:
        folder: Folder of the test report.
        rows: Rows of the task: `ids` (N,) and any number of (N, ...) arrays of numbers.
        groups: (N,) group (patient, photograph, sequence) of each sample.
    """
    arrays: dict[str, Any] = {**rows, "groups": np.array(groups, dtype=str)}
    write_atomically(folder / SAMPLES_NAME, lambda file: np.savez_compressed(file, **arrays))


def read_samples(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read what `write_samples` wrote.

    Args:
        folder: Folder of the test report, called like its run.

    Returns:
        The rows and the (N,) groups.

    Raises:
        UserError: The file is not there or cannot be read.
    """
    path = folder / SAMPLES_NAME
    remedy = f"run polymask test run_name={folder.name}"
    if not path.is_file():
        raise UserError(f"{folder} has no {SAMPLES_NAME}; {remedy} first.")
    try:
        # Opened here, because NumPy leaves a file open in which it finds no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            rows = dict(content)
        groups, ids = rows.pop("groups").tolist(), rows["ids"].tolist()
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy} to write it anew.") from error
    check_inside(ids, str(path))
    return rows, groups


def common_samples(
    rows_a: Mapping[str, np.ndarray], rows_b: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Return the rows of the samples that are in both, sorted by id.

    Args:
        rows_a: `ids` (N,), each once, and (N, ...) arrays.
        rows_b: The same of M samples.

    Returns:
        The rows of both, K samples each, and the (K,) int indices of these in `rows_a`.
    """
    _, of_a, of_b = np.intersect1d(rows_a["ids"], rows_b["ids"], assume_unique=True, return_indices=True)
    return (
        {name: values[of_a] for name, values in rows_a.items()},
        {name: values[of_b] for name, values in rows_b.items()},
        of_a,
    )
