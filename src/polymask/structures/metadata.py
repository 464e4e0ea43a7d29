"""How what is known of a person becomes numbers for a network; what is not known has a number, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymask.errors import UserError, choose
from polymask.structures.attributes import as_number, known_text

KINDS = ("number", "category")


@dataclass(frozen=True, kw_only=True)
class MetadataEncoding:
    """Turns values of columns into features.

    A number becomes (not known, standardised value), a category (not known, one feature per value): in each
    column the first feature alone is 1 where nothing is known, or a category that training never saw.

    Attributes:
        kinds: `number` or `category` per column.
        statistics: Per column [mean, standard deviation] of a number, all values of a category in lower case.
    """

    kinds: Mapping[str, str]
    statistics: Mapping[str, Sequence[Any]]

    @property
    def sizes(self) -> list[int]:
        """Return the number of features of each column."""
        return [
            2 if kind == "number" else 1 + len(self.statistics[name]) for name, kind in self.kinds.items()
        ]

    def encode(self, attributes: Mapping[str, Any]) -> np.ndarray:
        """Return the (F,) float32 features of a sample.

        Args:
            attributes: Values by column in lower case, as text or numbers; any may be absent.

        Raises:
            UserError: A value of a column of numbers is none.
        """
        features: list[float] = []
        for (name, kind), size in zip(self.kinds.items(), self.sizes, strict=True):
            own = [0.0] * size
            text = known_text(str(attributes.get(name.lower(), "")))
            if kind == "number":
                value = _number(name, text) if text else math.nan
                mean, deviation = self.statistics[name]
                own = [1.0, 0.0] if math.isnan(value) else [0.0, (value - mean) / deviation]
            else:
                values = list(self.statistics[name])
                own[1 + values.index(text.lower()) if text.lower() in values else 0] = 1.0
            features += own
        return np.array(features, np.float32)


def check_kinds(kinds: object) -> dict[str, str]:
    """Return the kinds of columns when they are some; none for null.

    Raises:
        UserError: They are not.
    """
    if kinds is None:
        return {}
    if not isinstance(kinds, Mapping):
        raise UserError(
            f"model.metadata={kinds!r} must name columns with their kinds, such as "
            "{age: number, sex: category}."
        )
    return {str(name): choose(f"model.metadata.{name}", str(kind), KINDS) for name, kind in kinds.items()}


def measure_metadata(kinds: Mapping[str, str], samples: Sequence[Mapping[str, str]]) -> MetadataEncoding:
    """Return the encoding of columns with the mean, deviation and values that the training samples have.

    Args:
        kinds: Kind per column.
        samples: Attributes of each training sample.

    Raises:
        UserError: A column has no known value in training, or one that is no number where all should be.
    """
    statistics: dict[str, list[Any]] = {}
    for name, kind in kinds.items():
        texts = [known_text(sample.get(name.lower(), "")) for sample in samples]
        known = [text for text in texts if text]
        if not known:
            raise UserError(
                f"model.metadata names {name!r}, of which no training sample has a value; leave it out."
            )
        if kind == "number":
            values = [_number(name, text) for text in known]
            statistics[name] = [float(np.mean(values)), float(np.std(values)) or 1.0]
        else:
            statistics[name] = sorted({text.lower() for text in known})
    return MetadataEncoding(kinds=dict(kinds), statistics=statistics)


def _number(name: str, text: str) -> float:
    value = as_number(text)
    if math.isnan(value):
        raise UserError(
            f"model.metadata.{name}=number, but {text!r} is no number; mend the table (empty where nothing "
            f"is known), or give model.metadata.{name}=category."
        )
    return value
