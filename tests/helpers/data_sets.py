"""A data set from flat options, as a configuration has them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from polymask.data.attributes import Attributes
from polymask.data.loading import Loading
from polymask.data.module import DataModule
from polymask.data.splits.plan import SplitPlan

MASKS = frozenset({"image", "mask", "objects"})
"""What tasks need that look at masks or objects."""


def build(samples: type, **options: Any) -> DataModule:
    """Return the data set of a `Samples` class; `options` are its own, or of split, loading, attributes."""
    plan, loading, attributes, rest = (
        {name: options.pop(name) for name in names if name in options}
        for names in (
            [field.name for field in fields(SplitPlan)],
            [field.name for field in fields(Loading)],
            [field.name for field in fields(Attributes)],
            ["split", "corrections", "augmentation", "seed"],
        )
    )
    parts = SplitPlan(**plan), Loading(**loading)
    return DataModule(samples(**options), *parts, attributes=Attributes(**attributes), **rest)
