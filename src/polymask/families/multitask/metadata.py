"""What is known of the person in a new image: from a table, for networks that take it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask.data.attributes import table_of_attributes
from polymask.errors import UserError
from polymask.structures.metadata import MetadataEncoding
from polymask.utils.paths import resolve
from polymask.utils.text import same_name

log = logging.getLogger(__name__)

TABLE = "data.attribute_table"


class CaseMetadata:
    """Finds what is known of an image by the name of its file.

    Args:
        encoding: Turns values into the network's features.
        table: Path of a CSV with a column of ids or file names; or from Python values by file name, or
            the values of all images. None where nothing is known.

    Raises:
        UserError: The table cannot be read, or lacks all columns that the network takes.
    """

    def __init__(self, encoding: MetadataEncoding, table: str | Path | Mapping[str, Any] | None) -> None:
        self.encoding = encoding
        wanted = [name.lower() for name in encoding.kinds]
        self._of_all: Mapping[str, Any] = {}
        self._rows: Mapping[str, Mapping[str, Any]] | None = None
        if table is None:
            log.warning(
                "the network takes %s, of which nothing is known here; give a table as %s.",
                ", ".join(wanted),
                TABLE,
            )
            return
        if not isinstance(table, Mapping):
            table = table_of_attributes(str(table))
        if not all(isinstance(row, Mapping) for row in table.values()):
            self._of_all, rows = _lower(table), [table]
        else:
            self._rows = {same_name(str(name)): _lower(row) for name, row in table.items()}
            rows = list(table.values())
        found = sorted({str(column).lower() for row in rows for column in row})
        if not set(wanted) & set(found):
            raise UserError(
                f"{TABLE} has none of the columns that the network takes, {', '.join(wanted)}. "
                f"Found: {', '.join(found) or 'none'}."
            )

    def features(self, source: str | Path | np.ndarray) -> Tensor:
        """Return the (F,) float32 features of an image; of an array those that hold for all images."""
        values = self._of_all
        if self._rows is not None and not isinstance(source, np.ndarray):
            found = next((self._rows[name] for name in _names(Path(source)) if name in self._rows), None)
            if found is None:
                log.warning("%s is not in %s: nothing is known of it.", Path(source).name, TABLE)
            values = found or {}
        return torch.from_numpy(self.encoding.encode(values))


def of_inference(data: Mapping[str, Any], settings: dict[str, Any]) -> CaseMetadata | None:
    """Return what is known of the cases of an inference, None for a network that takes no metadata.

    Args:
        data: The `data` section of the stored configuration.
        settings: What was chosen for this inference; a table becomes the hash of its content.

    Raises:
        UserError: A table is given to a network that takes none, or cannot be used.
    """
    table = settings.get(TABLE)
    if not data.get("metadata"):
        if table is not None:
            raise UserError(
                f"{TABLE} is of no use to a run that was trained without model.metadata; leave it out."
            )
        return None
    encoding = MetadataEncoding(kinds=data["metadata"], statistics=data["metadata_statistics"])
    found = CaseMetadata(encoding, table)
    if table is not None:
        content = repr(table).encode() if isinstance(table, Mapping) else resolve(str(table)).read_bytes()
        settings[TABLE] = hashlib.sha256(content).hexdigest()
    return found


def _lower(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).lower(): "" if value is None else value for name, value in row.items()}


def _names(path: Path) -> list[str]:
    """Return what a table may call a file: ends of its path, the longest first, with and without suffix."""
    ends = ["/".join(path.parts[start:]) for start in range(len(path.parts))]
    return [same_name(name) for end in ends for name in (end, end.removesuffix(path.suffix))]
