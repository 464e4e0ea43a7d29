"""Dealing groups of samples to parts so that every class keeps its share; the data set may prescribe some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from polymask.data.records import Record
from polymask.errors import UserError

_EVERY = -2  # a stratum that holds every sample, next to the labels (-1 is the unknown one)


def set_apart(records: Sequence[Record]) -> tuple[dict[str, str], list[Record]]:
    """Return the subset of each id for which the data set prescribes one, and the records that are free.

    Raises:
        UserError: Of one group some samples are prescribed and others free.
    """
    prescribed = {record.id: record.subset for record in records if record.subset is not None}
    free = [record for record in records if record.subset is None]
    groups = {record.group: record for record in records if record.subset is not None}
    for record in free:
        if record.group in groups:
            other = groups[record.group]
            raise UserError(
                f"group {record.group!r} is partly prescribed: the data set puts {other.id!r} into "
                f"{other.subset}, but leaves {record.id!r} to the split. Treat all samples of a group alike."
            )
    return prescribed, free


def deal(records: Sequence[Record], fractions: Sequence[float], seed: int) -> dict[str, int]:
    """Deal the samples out to parts of the given fractions, group by group; return the part of each id.

    Greedy, largest groups first: each goes where it raises chi-square least, the sum over parts and
    strata of (count - wanted)^2 / wanted. Since the fill of a part counts in relation to its wish, small
    parts get their share of groups of every size. Only integers, sorted names and plain floats take part,
    so the result depends on neither the order of the records nor the machine.
    """
    groups: dict[str, Counter[int]] = {}
    for record in sorted(records, key=lambda record: record.id):
        # The stratum _EVERY keeps the sizes of the parts, as the labels keep their classes.
        groups.setdefault(record.group, Counter()).update((record.label, _EVERY))
    totals = sum(groups.values(), Counter[int]())
    names = list(groups)  # in the order of their first ids
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda name: groups[name][_EVERY], reverse=True)
    part_of = _deal_one_of_each(order, groups, fractions)
    filled = {part: Counter[int]() for part, fraction in enumerate(fractions) if fraction > 0}
    for name, part in part_of.items():
        filled[part].update(groups[name])
    for name in order:
        if name not in part_of:
            rises = {
                part: _chi_square_rise(groups[name], counts, totals) / fractions[part]
                for part, counts in filled.items()
            }
            part_of[name] = min(rises, key=rises.__getitem__)
            filled[part_of[name]].update(groups[name])
    return {record.id: part_of[record.group] for record in records}


def _chi_square_rise(group: Counter[int], counts: Counter[int], totals: Counter[int]) -> float:
    # (c + n - fT)^2 / fT - (c - fT)^2 / fT = (n (2c + n) / T) / f - 2n, where -2n is the same for every part.
    return sum(n * (2 * counts[stratum] + n) / totals[stratum] for stratum, n in group.items())


def _deal_one_of_each(
    order: Sequence[str], groups: Mapping[str, Counter[int]], fractions: Sequence[float]
) -> dict[str, int]:
    """Give each part one group of each stratum that has enough groups: the smallest, rarest strata first."""
    holders: dict[int, list[str]] = {}
    for name in order:
        for stratum in sorted(groups[name]):
            holders.setdefault(stratum, []).append(name)
    parts = sorted(
        (part for part, fraction in enumerate(fractions) if fraction > 0), key=fractions.__getitem__
    )
    part_of: dict[str, int] = {}
    for names in sorted(holders.values(), key=len):
        if len(names) < len(parts):
            continue
        free = [name for name in names if name not in part_of]
        served = {part_of[name] for name in names if name in part_of}
        for part in parts:
            if part not in served and free:
                part_of[free.pop()] = part
    return part_of
