"""What a table says of each sample beside its class: age, sex, site; and the subgroups made of it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymask.data.records import Record
from polymask.data.tables import id_column, read_csv, some
from polymask.errors import UserError, nearest, whole_number
from polymask.metrics.subgroups import ROWS_PREFIX
from polymask.structures.attributes import UNKNOWN, as_number, known_text
from polymask.structures.metadata import MetadataEncoding, check_kinds, measure_metadata
from polymask.utils.paths import resolve
from polymask.utils.text import same_name

log = logging.getLogger(__name__)

MOST_VALUES = 50
"""Of a column of subgroups: more are names of samples or patients rather than subgroups."""
_MOST_BANDS = 10


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Which columns of a table matter, and for what.

    Attributes:
        attribute_table: CSV with a column of ids or file names and any others, which are added to those of
            the data set's own table. None for none.
        subgroups: Columns whose values are the subgroups of a test.
        subgroup_bands: Edges of the bands of a column of numbers, by its name; a band includes its lower
            edge. Columns of numbers without an entry have bands of one round width, see `band_edges`.
        smallest_subgroup: Of subgroups with fewer groups of samples only the counts are shown.
        metadata: Columns that the network takes, with their kinds: `number` or `category`.
        metadata_statistics: What makes features of them, see `MetadataEncoding`; None to measure it.

    Raises:
        UserError: A value is not allowed.
    """

    attribute_table: str | None = None
    subgroups: Sequence[str] = ()
    subgroup_bands: Mapping[str, Sequence[float]] | None = None
    smallest_subgroup: int = 10
    metadata: Mapping[str, str] | None = None
    metadata_statistics: Mapping[str, Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        whole_number("data.smallest_subgroup", self.smallest_subgroup, least=2)
        check_kinds(self.metadata)
        names = self.subgroups
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_list or any(not isinstance(name, str) for name in names) or len({*names}) != len(names):
            raise UserError(
                f"data.subgroups={names!r} must be a list of different columns, such as [sex,age]."
            )
        if not isinstance(self.subgroup_bands, Mapping | None):
            raise UserError(
                f"data.subgroup_bands={self.subgroup_bands!r} must name columns with their edges, such as "
                "{age: [30,50,70]}."
            )
        for name, edges in (self.subgroup_bands or {}).items():
            if name not in names:
                raise UserError(
                    f"data.subgroup_bands has edges for {name!r}, which data.subgroups={list(names)} does "
                    "not name; add it there, or leave the edges out."
                )
            _check_edges(name, edges)

    def attach(self, records: Sequence[Record], where: str) -> list[Record]:
        """Return the records with the values of `attribute_table`.

        Args:
            records: All samples, with the attributes that their reader found.
            where: Where the samples are from, for messages.

        Raises:
            UserError: The table cannot be read or has no sample, or a column that is wanted does not exist
                or cannot be subgroups.
        """
        if self.attribute_table is not None:
            records = _with_table(records, self.attribute_table)
        _check_columns(records, self.subgroups, "data.subgroups", where)
        self._check_metadata(records, where)
        for name in self.subgroups:
            self._check_subgroups(records, name)
        return list(records)

    def rows(self, records: Sequence[Record], ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the subgroup of each of some samples, in a column per name: (N,) str, `unknown` without one.

        Args:
            records: All samples of the data set: bands follow from them, whatever is tested.
            ids: (N,) the samples.
        """
        columns = {}
        for name in self.subgroups:
            own = self._subgroups(records, name)
            columns[f"{ROWS_PREFIX}{name}"] = np.array([own[id_] for id_ in ids], dtype=str)
        return columns

    def encoding(self, training: Sequence[Record]) -> MetadataEncoding | None:
        """Return what makes features of metadata, measured of the training samples; None without any."""
        if not self.metadata:
            return None
        if self.metadata_statistics is None:
            return measure_metadata(self.metadata, [record.attributes for record in training])
        return MetadataEncoding(kinds=self.metadata, statistics=self.metadata_statistics)

    def _check_metadata(self, records: Sequence[Record], where: str) -> None:
        """Refuse a training without a column of metadata; a trained network can do without."""
        for name in self.metadata or {}:
            try:
                _check_columns(records, [name], "model.metadata", where)
            except UserError as error:
                if self.metadata_statistics is None:
                    raise
                log.warning("%s It counts as not known.", error)

    def _check_subgroups(self, records: Sequence[Record], name: str) -> None:
        number = len(set(self._subgroups(records, name).values()) - {UNKNOWN})
        if number > MOST_VALUES:
            raise UserError(
                f"data.subgroups names {name!r}, which has {number} different values; at most {MOST_VALUES} "
                "are subgroups. Choose another column."
            )

    def _subgroups(self, records: Sequence[Record], name: str) -> dict[str, str]:
        """Return the subgroup of each sample by its id."""
        texts = {record.id: known_text(record.attributes.get(name.lower(), "")) for record in records}
        numbers = {id_: as_number(text) for id_, text in texts.items() if text}
        edges = (self.subgroup_bands or {}).get(name)
        if edges is not None:
            wrong = next((id_ for id_, value in numbers.items() if math.isnan(value)), None)
            if wrong is not None:
                raise UserError(
                    f"data.subgroup_bands has edges for {name!r}, but {texts[wrong]!r} of {wrong} is no "
                    "number; mend the table, or leave the edges out."
                )
        elif len(set(texts.values()) - {""}) <= _MOST_BANDS or any(map(math.isnan, numbers.values())):
            return {id_: text or UNKNOWN for id_, text in texts.items()}
        else:
            edges = band_edges(list(numbers.values()))
        bands = dict(zip(numbers, band_names(list(numbers.values()), edges), strict=True))
        return {id_: bands.get(id_, UNKNOWN) for id_ in texts}


def band_edges(values: Sequence[float]) -> list[float]:
    """Return the edges of at most ten bands of one width, 1, 2 or 5 times a power of ten; decades of ages.

    Args:
        values: Finite numbers, at least two different ones. All lie within the bands.
    """
    low, high = min(values), max(values)
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_BANDS))
    for width in (step * power for step in (1, 2, 5, 10, 20)):
        first, last = math.floor(low / width), math.floor(high / width) + 1
        if last - first <= _MOST_BANDS:
            break
    return [float(f"{edge * width:.12g}") for edge in range(first, last + 1)]


def band_names(values: Sequence[float], edges: Sequence[float]) -> list[str]:
    """Return the band of each value, such as `<30`, `30 to 49` (of whole numbers), `0.5 to <1`, `>=70`.

    Args:
        values: Finite numbers.
        edges: Rising; a band includes its lower edge, and lies between two of them, or before or after all.
    """
    whole = all(float(value).is_integer() for value in (*values, *edges))
    names = [f"<{edges[0]:g}"]
    for low, high in itertools.pairwise(edges):
        end = (f" to {high - 1:g}" if high - 1 > low else "") if whole else f" to <{high:g}"
        names.append(f"{low:g}{end}")
    names.append(f">={edges[-1]:g}")
    return [names[number] for number in np.searchsorted(edges, values, side="right").tolist()]


def table_of_attributes(path: str) -> dict[str, dict[str, str]]:
    """Return the other columns of a table by the id or file name of the sample.

    Raises:
        UserError: It cannot be read, has no column of ids, or names a sample twice.
    """
    source = resolve(path)
    rows = read_csv(source)
    column = id_column(list(rows[0]), str(source))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row.pop(column).strip()
        if name in found:
            raise UserError(f"{source} names {name!r} more than once. Keep one row.")
        found[name] = {key: value.strip() for key, value in row.items()}
    return found


def _with_table(records: Sequence[Record], path: str) -> list[Record]:
    table = table_of_attributes(path)
    found = {record.id: _row_of(table, record) for record in records}
    missing = [id_ for id_, row in found.items() if row is None]
    if len(missing) == len(records):
        raise UserError(
            f"data.attribute_table={path} has none of the {len(records)} samples, e.g. {missing[0]!r}; its "
            f"ids are such as {next(iter(table))!r}."
        )
    if missing:
        log.warning("%s has nothing of %d of %d samples: %s", path, len(missing), len(records), some(missing))
    columns = dict.fromkeys(next(iter(table.values())), "")
    return [
        dataclasses.replace(record, attributes={**record.attributes, **columns, **(found[record.id] or {})})
        for record in records
    ]


def _row_of(table: Mapping[str, dict[str, str]], record: Record) -> dict[str, str] | None:
    names = (record.id, same_name(record.image_path.name))
    return next((table[name] for name in names if name in table), None)


def _check_columns(records: Sequence[Record], names: Sequence[str], key: str, where: str) -> None:
    known = list(dict.fromkeys(column for record in records for column in record.attributes))
    for name in names:
        if name.lower() in known:
            continue
        if not known:
            raise UserError(
                f"{key} names {name!r}, but nothing is known of the samples of {where}: give a CSV with the "
                "columns id and any others as data.attribute_table."
            )
        raise UserError(
            f"{key} names {name!r}, which is no column of the samples of {where}.{nearest(name, known)} "
            f"Found: {', '.join(known)}."
        )


def _check_edges(name: str, edges: object) -> None:
    numbers = edges if isinstance(edges, Sequence) and not isinstance(edges, str) else []
    is_number = [isinstance(edge, int | float) and not isinstance(edge, bool) for edge in numbers]
    if not numbers or not all(is_number) or list(numbers) != sorted(set(numbers)):
        raise UserError(
            f"data.subgroup_bands.{name}={edges!r} must be a list of rising numbers, such as [30,50,70]."
        )
