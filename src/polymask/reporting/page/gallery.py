"""The gallery: the best, the median and the worst samples, of all and of each class."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polymask.reporting.page.blocks import Case, Gallery
from polymask.reporting.page.numbers import readable, shown
from polymask.reporting.page.pictures import panel_picture

ALL = "all"
_OF_ALL, _OF_CLASS = 4, 2  # samples of each kind
_MOST_CASES = 40
_MOST_CHARACTERS = 3_000_000  # of all pictures together, as they stand in the page


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The tested samples.

    Attributes:
        ids: Their N ids.
        scores: Name to (N,) scores, higher is better and NaN unknown; the first that is known orders them.
        labels: The classes that each of them shows, as indices.
        class_names: Names of the classes.
        picture: Draws one of them, (H, W, 3) uint8 RGB.
    """

    ids: Sequence[str]
    scores: Mapping[str, np.ndarray]
    labels: Sequence[Iterable[int]]
    class_names: Sequence[str]
    picture: Callable[[str], np.ndarray]


def extremes(scores: np.ndarray, among: Sequence[int], number: int) -> dict[int, str]:
    """Choose the worst, the best and the median samples, each once.

    Args:
        scores: (N,) score of each sample; those of NaN are never chosen.
        among: Indices of the samples to choose from.
        number: How many of each kind at most; of few samples the worst come first, then the best.

    Returns:
        Index to `worst`, `median` or `best`, from the worst to the best.
    """
    order = sorted((index for index in among if not np.isnan(scores[index])), key=lambda index: scores[index])
    kinds: dict[int, str] = dict.fromkeys(order[:number], "worst")
    best = [index for index in order[::-1] if index not in kinds][:number]
    kinds |= dict.fromkeys(best, "best")
    rest = [index for index in order if index not in kinds]
    middle = max(0, (len(rest) - number) // 2)
    kinds |= dict.fromkeys(rest[middle : middle + number], "median")
    return {index: kinds[index] for index in order if index in kinds}


def chosen_cases(scores: np.ndarray, labels: Sequence[Iterable[int]]) -> dict[int, list[str]]:
    """Return the samples to show, with the words of `Case.kinds`: first those of all, then class by class."""
    chosen: dict[int, list[str]] = {}
    for index, kind in extremes(scores, range(len(scores)), _OF_ALL).items():
        chosen.setdefault(index, []).append(f"{ALL}:{kind}")
    members: dict[int, list[int]] = {}
    for index, own in enumerate(labels):
        for label in own:
            members.setdefault(label, []).append(index)
    members.pop(-1, None)  # unknown
    each = max(1, min(_OF_CLASS, (_MOST_CASES - len(chosen)) // max(1, 3 * len(members))))
    for label, among in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        found = extremes(scores, among, each)
        if len(chosen.keys() | found.keys()) > _MOST_CASES:
            break
        for index, kind in found.items():
            chosen.setdefault(index, []).append(f"{label}:{kind}")
    return chosen


def gallery(folder: Path, samples: Samples) -> Gallery | None:
    """Return the gallery of a tested run, None where no sample has a score.

    Args:
        folder: The results folder; what `per_sample.csv` says was predicted stands below the pictures.
        samples: The tested samples.
    """
    known = [name for name, values in samples.scores.items() if not np.isnan(values).all()]
    if not known:
        return None
    scores = samples.scores[known[0]]
    predicted = _predicted(folder / "per_sample.csv")
    cases: dict[int, Case] = {}
    for index, kinds in chosen_cases(scores, samples.labels).items():
        case = _case(samples, index, kinds, known, predicted)
        if sum(len(other.picture.uri) for other in (*cases.values(), case)) > _MOST_CHARACTERS:
            break
        cases[index] = case
    filters = {word.partition(":")[0] for case in cases.values() for word in case.kinds}
    classes = [(str(label), name) for label, name in enumerate(samples.class_names) if str(label) in filters]
    ordered = sorted(cases, key=lambda index: scores[index])
    return Gallery(cases=[cases[index] for index in ordered], classes=classes, score=readable(known[0]))


def _case(
    samples: Samples, index: int, kinds: Sequence[str], scores: Sequence[str], predicted: Mapping[str, str]
) -> Case:
    id_ = str(samples.ids[index])
    known = range(len(samples.class_names))  # of a task that has no classes, images may have some
    names = [samples.class_names[label] for label in sorted(samples.labels[index]) if label in known]
    found = {"Truth": ", ".join(names), "Predicted": predicted.get(id_, "")}
    facts = [(name, text) for name, text in found.items() if text]
    facts += [
        (readable(name), shown(float(samples.scores[name][index])))
        for name in scores
        if not np.isnan(samples.scores[name][index])
    ]
    # As it is called until a filter is chosen: what it is among all, or else in its class.
    filter_, _, kind = kinds[0].partition(":")
    label = kind if filter_ == ALL else f"{kind} of {samples.class_names[int(filter_)]}"
    told = "; ".join(f"{name}: {text}" for name, text in facts)
    alt = f"{label[:1].upper()}{label[1:]} sample {id_}. {told}."
    return Case(
        id=id_, picture=panel_picture(samples.picture(id_), alt), facts=facts, kinds=kinds, label=label
    )


def _predicted(path: Path) -> dict[str, str]:
    """Return the predicted class of each sample, nothing where the table has none."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row.get("predicted") or "" for row in csv.DictReader(file) if "id" in row}
