"""A data set from flat options, as a configuration has them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from polymask.data.loading import Loading
from polymask.data.module import DataModule
from polymask.data.splits.plan import SplitPlan

MASKS = frozenset({"image", "mask", "objects"})
"""What tasks need that look at masks or objects."""


def build(samples: type, **options: Any) -> DataModule:
    """Return the data set of a `Samples` class; `options` are its own, and those of split and loading."""
    plan, loading, rest = (
        {name: options.pop(name) for name in names if name in options}
        for names in (
            [field.name for field in fields(SplitPlan)],
            [field.name for field in fields(Loading)],
            ["split", "corrections", "augmentation", "seed"],
        )
    )
    return DataModule(samples(**options), SplitPlan(**plan), Loading(**loading), **rest)
