"""Corrections that a person made to the truth of a data set, `data.corrections`.

A CSV file with the columns id, action, value and note, which `polymask review` writes and a person edits:

| action | what becomes of the sample |
|---|---|
| `keep` | nothing; value and note do not matter |
| `relabel` | its class is the one that `value` names |
| `exclude` | it is in no subset |
| `ignore_mask` | its mask counts in no loss and no metric, as if it had none |

New classes and ignored masks are in place before the split is drawn. Excluded samples leave their subset
after it, so that an exclusion moves no other sample, and a split that names them still fits.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polymask.data.records import Record
from polymask.data.splits.split import Split
from polymask.data.tables import read_numbered_csv
from polymask.errors import UserError, choose, listed, nearest

KEEP, RELABEL, EXCLUDE, IGNORE_MASK = "keep", "relabel", "exclude", "ignore_mask"
ACTIONS = (KEEP, RELABEL, EXCLUDE, IGNORE_MASK)
COLUMNS = ("id", "action", "value", "note")
_DONE = {RELABEL: "{} relabelled", EXCLUDE: "{} excluded", IGNORE_MASK: "{} masks ignored"}


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One line of the file that changes something.

    Attributes:
        id: Of the sample.
        action: One of `ACTIONS` but `keep`.
        value: Name of the class for `relabel`.
        place: File and number of the line, for messages.
    """

    id: str
    action: str
    value: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """All corrections of a file.

    Attributes:
        path: The file.
        sha256: Of its bytes, as 64 hexadecimal digits: it tells runs with other corrections apart.
        mentioned: Every id of the file with the place where it stands first, those to keep among them.
        changes: What changes something.
    """

    path: Path
    sha256: str
    mentioned: Mapping[str, str]
    changes: Sequence[Correction]

    @property
    def excluded(self) -> frozenset[str]:
        """Return the samples that shall be in no subset."""
        return frozenset(change.id for change in self.changes if change.action == EXCLUDE)

    def apply(
        self, records: Sequence[Record], classes: Sequence[str], gives: Collection[str]
    ) -> list[Record]:
        """Return all records with their new classes and without the masks to ignore.

        Args:
            records: The samples as they were read.
            classes: Names of the classes, in the order of the labels.
            gives: What a task can learn from the data set, see `Samples.gives`.

        Raises:
            UserError: The file names a sample or a class that the data set does not have, or a change that
                its kind of truth does not allow; the message has the number of the line.
        """
        by_id = {record.id: record for record in records}
        for id_, place in self.mentioned.items():
            if id_ not in by_id:
                raise UserError(
                    f"{place}: the data have no sample {id_!r}.{nearest(id_, by_id)} Give the data that the "
                    "file was made from, or delete the line."
                )
        for change in self.changes:
            if change.action == RELABEL:
                by_id[change.id] = _relabelled(by_id[change.id], change, classes, gives)
            elif change.action == IGNORE_MASK:
                by_id[change.id] = _without_mask(by_id[change.id], change, gives)
        return list(by_id.values())

    def description(self, split: Split) -> str:
        """Return one line: what was changed, and how much of it in which subset.

        Args:
            split: The split with the excluded samples still in it.
        """
        counts = Counter(change.action for change in self.changes)
        done = [words.format(counts[action]) for action, words in _DONE.items() if counts[action]]
        changed = {change.id for change in self.changes}
        places = [f"{name} {len(changed & set(own))}" for name, own in split.subsets.items()]
        where = f" ({', '.join(places)})" if done else ""
        return f"corrections of {self.path.name}: {', '.join(done) or 'none'}{where}"


def read_corrections(path: Path) -> Corrections:
    """Read `data.corrections`.

    Raises:
        UserError: The file cannot be read or lacks a column, an action is unknown, a class to relabel to is
            missing, or a sample has one action twice; the message has the number of the line.
    """
    source = f"data.corrections {path}"
    lines = read_numbered_csv(path)
    lacking = [name for name in COLUMNS[:3] if name not in lines[0][1]]
    if lacking:
        raise UserError(
            f"{source} has no column {lacking[0]}. Found: {', '.join(lines[0][1])}. "
            f"Give {', '.join(COLUMNS)}."
        )
    mentioned: dict[str, str] = {}
    changes: dict[tuple[str, str], Correction] = {}
    for number, row in lines:
        id_, action, value = (row[name].strip() for name in COLUMNS[:3])
        place = f"{source}, line {number}"
        choose(f"{place}: action", action, ACTIONS)
        mentioned.setdefault(id_, place)
        if action == RELABEL and not value:
            raise UserError(f"{place}: relabel needs the name of a class as value; give one, or keep.")
        if (id_, action) in changes:
            raise UserError(f"{place}: sample {id_!r} has {action} twice; delete one of the lines.")
        if action != KEEP:
            changes[id_, action] = Correction(id=id_, action=action, value=value, place=place)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Corrections(path=path, sha256=sha256, mentioned=mentioned, changes=tuple(changes.values()))


def _relabelled(record: Record, change: Correction, classes: Sequence[str], gives: Collection[str]) -> Record:
    of_objects = record.truth is not None and record.truth.labels is not None
    if "label" not in gives or not classes or of_objects:
        raise UserError(
            f"{change.place}: relabel is for samples with one class each, but "
            f"{'the classes of this one are those of its objects' if of_objects else 'these have none'}; use "
            "exclude, or mend the annotations."
        )
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    label = label_of.get(change.value.lower())
    if label is None:
        raise UserError(
            f"{change.place}: class {change.value!r} is unknown.{nearest(change.value, classes)} "
            f"{listed(change.value, classes)}"
        )
    return dataclasses.replace(record, label=label)


def _without_mask(record: Record, change: Correction, gives: Collection[str]) -> Record:
    if "mask" not in gives:
        raise UserError(
            f"{change.place}: ignore_mask is for samples with one mask each, not for these; use exclude."
        )
    return dataclasses.replace(record, truth=None, mask_hint=f"{change.place} leaves its mask out.")
