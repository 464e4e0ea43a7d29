"""Which images belong together: by a pattern in their file names, or by a table."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from polymask.data.tables import id_column, read_csv, some
from polymask.errors import UserError, nearest
from polymask.utils.text import same_name

log = logging.getLogger(__name__)


def read_groups(
    file_names: Mapping[str, str],
    data_dir: Path,
    *,
    pattern: str | None,
    table: str | None,
    column: str | None,
) -> dict[str, str]:
    """Return the group of each image; without any rule each is its own.

    Args:
        file_names: File name per id.
        data_dir: Where a relative `table` lies.
        pattern: Regular expression whose first group, or whole match, in the file name is the group.
        table: CSV file with a column of ids or file names and the column `column`.
        column: Column of the group in `table`, None for `group`.

    Raises:
        UserError: Two rules are given, a rule is malformed, or it fits none of the images.
    """
    if pattern is not None and (table is not None or column is not None):
        raise UserError(
            "data.reader.group_pattern and data.reader.group_table or group_column are both given; keep one."
        )
    if pattern is not None:
        return _groups_by_pattern(file_names, pattern)
    if table is not None:
        return _groups_by_table(file_names, data_dir / table, (column or "group").lower())
    return {id_: id_ for id_ in file_names}


def _groups_by_pattern(file_names: Mapping[str, str], pattern: str) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"data.reader.group_pattern={pattern!r} is no regular expression: {error}. Mend it."
        ) from error
    found = {id_: expression.search(name) for id_, name in file_names.items()}
    missing = [file_names[id_] for id_, match in found.items() if match is None]
    if file_names and len(missing) == len(file_names):
        raise UserError(
            f"data.reader.group_pattern={pattern!r} matches none of the {len(missing)} file names, e.g. "
            f"{missing[0]!r}. Mend it, or set it to null."
        )
    if missing:
        note = "group_pattern %r does not match %d file names, each of which is its own group: %s"
        log.warning(note, pattern, len(missing), some(missing))
    # An optional first group that took no part leaves the image its own group, as no match does.
    groups = {id_: match and (match[1] if expression.groups else match[0]) for id_, match in found.items()}
    return {id_: group or id_ for id_, group in groups.items()}


def _groups_by_table(file_names: Mapping[str, str], table: Path, column: str) -> dict[str, str]:
    rows = read_csv(table)
    columns = list(rows[0])
    of_ids = id_column(columns, str(table))
    if column not in columns:
        raise UserError(
            f"{table} has no column {column!r} (data.reader.group_column).{nearest(column, columns)} "
            f"Found: {', '.join(columns)}."
        )
    group_of = {row[of_ids].strip(): row[column].strip() for row in rows}
    groups = {id_: group_of.get(id_, group_of.get(same_name(name))) for id_, name in file_names.items()}
    return fill_groups(groups, str(table))


def fill_groups(groups: Mapping[str, str | None], source: str) -> dict[str, str]:
    """Return `groups` with an empty one replaced by the image's own id.

    Args:
        groups: Group per id; None where `source` has no entry.
        source: Where the groups come from, for the message.

    Raises:
        UserError: An image has no entry: it might belong to any group.
    """
    missing = [id_ for id_, group in groups.items() if group is None]
    if missing:
        raise UserError(
            f"{source} has no group for {len(missing)} of {len(groups)} images: {some(missing)}. "
            "Add them; an empty group makes an image its own."
        )
    return {id_: group or id_ for id_, group in groups.items()}
