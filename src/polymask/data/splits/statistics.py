"""What a split looks like: images, groups and class shares per subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from polymask.data.records import Record
from polymask.data.splits.split import Split
from polymask.utils.text import align_columns


def split_statistics(
    split: Split, records: Sequence[Record], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Count what each subset holds.

    Args:
        split: Which sample is where.
        records: The samples.
        class_names: Name of each label; "unknown" follows them where samples have no label. Without names
            nothing is counted per class.

    Returns:
        One row per subset and one called "all", each with `subset`, `images`, `groups`, `counts` (images
        that show a class; one may show several), `shares` (per cent of the images of the subset per class)
        and `largest_deviation` (of a share from the share in "all", in percentage points). In an empty
        subset the last two are 0.
    """
    record_of = {record.id: record for record in records}
    subsets = {subset: [record_of[name] for name in names] for subset, names in split.subsets.items()}
    subsets["all"] = [record for members in subsets.values() for record in members]
    labels = dict(enumerate(class_names))
    if labels and any(record.label < 0 for record in subsets["all"]):
        labels[-1] = "unknown"
    overall = _shares(subsets["all"], labels)
    return [
        {
            "subset": subset,
            "images": len(members),
            "groups": len({record.group for record in members}),
            "counts": {name: sum(label in r.labels for r in members) for label, name in labels.items()},
            "shares": (shares := _shares(members, labels)),
            "largest_deviation": max((abs(shares[n] - overall[n]) for n in shares if members), default=0.0),
        }
        for subset, members in subsets.items()
    ]


def format_statistics(split: Split, records: Sequence[Record], class_names: Sequence[str]) -> str:
    """Return `split_statistics` as a plain table; a class is `images (per cent)`."""
    rows = split_statistics(split, records, class_names)
    last = ["largest deviation"] if class_names else []
    table = [["subset", "images", "groups", *rows[0]["counts"], *last]]
    for row in rows:
        cells = [f"{count} ({row['shares'][name]:.2f}%)" for name, count in row["counts"].items()]
        numbers = [row["subset"], str(row["images"]), str(row["groups"])]
        table.append([*numbers, *cells, *(f"{row['largest_deviation']:.2f}" for _ in last)])
    return "\n".join(align_columns(table))


def _shares(records: Sequence[Record], labels: Mapping[int, str]) -> dict[str, float]:
    counts = Counter(label for record in records for label in record.labels)
    return {name: 100 * counts[label] / max(len(records), 1) for label, name in labels.items()}
