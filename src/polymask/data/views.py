"""Samples as several networks see them: of other sizes, other values in black and white."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from polymask.data.decoded_once import decoded_once
from polymask.structures.samples import SampleKey


class Views(Dataset[list[dict[str, Any]]]):
    """The items of several data sets of the same samples, an item of each; files are decoded once for all.

    Args:
        datasets: At least one, of one length and order.
    """

    def __init__(self, datasets: Sequence[Dataset[dict[str, Any]]]) -> None:
        self.datasets = list(datasets)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.datasets[0])  # type: ignore[arg-type]  # every one has a length

    def __getitem__(self, key: SampleKey) -> list[dict[str, Any]]:
        """Return the item of `key` of each data set."""
        with decoded_once():
            return [dataset[key] for dataset in self.datasets]


def collate_views(
    items: Sequence[Sequence[dict[str, Any]]], *, collates: Sequence[Callable[..., dict[str, Any]]]
) -> dict[str, Any]:
    """Return `ids` and `views`: a batch per data set.

    Args:
        items: Of `Views`.
        collates: What makes a batch of the items of each data set.
    """
    views = [
        collate(list(column)) for collate, column in zip(collates, zip(*items, strict=True), strict=True)
    ]
    ids = views[0]["ids"]
    if any(view["ids"] != ids for view in views):
        raise ValueError("the data sets hold different samples, or in another order.")
    return {"ids": ids, "views": views}
