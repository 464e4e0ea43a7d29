"""How a data set is split into train, val and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from polymask.data.records import Record
from polymask.data.splits.split import Split, draw_fold, draw_split, read_split_file
from polymask.errors import UserError, whole_number
from polymask.utils.paths import resolve


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How a data set is split: by a file, else a fold of a cross-validation, else by fractions.

    Attributes:
        fractions: Shares of train, val and test.
        split_seed: Seed of the split, apart from the seed of the run.
        split_file: CSV with the columns id and subset, instead of drawing a split.
        num_folds: Cross-validation in this many parts: part `fold` is test, the next one val.
        fold: Which fold, from 0.
        overfit_samples: Use only this many training samples, the same ones for train, val and test.
    """

    fractions: Sequence[float] = (0.7, 0.15, 0.15)
    split_seed: int = 0
    split_file: str | None = None
    num_folds: int | None = None
    fold: int = 0
    overfit_samples: int | None = None

    def split(
        self, records: Sequence[Record], class_names: Sequence[str], *, stored: Split | None = None
    ) -> Split:
        """Return the split of a data set.

        Args:
            records: The samples.
            class_names: Name of each label.
            stored: The split of a checkpoint, which wins over file, folds and fractions.

        Raises:
            UserError: A value is not allowed, or the data cannot be split so.
        """
        split = self._make(records, class_names) if stored is None else stored
        if self.overfit_samples is None:
            return split
        number = whole_number("data.overfit_samples", self.overfit_samples, least=1)
        # A stored split has a row per sample: of one made here it names the samples for test only.
        samples = (split.subsets["train"] or split.subsets["test"])[:number]
        return dataclasses.replace(split, subsets=dict.fromkeys(split.subsets, samples))

    def _make(self, records: Sequence[Record], class_names: Sequence[str]) -> Split:
        if self.split_file:
            return read_split_file(resolve(self.split_file), records, class_names)
        seed = whole_number("data.split_seed", self.split_seed, least=0)
        if self.num_folds is not None:
            return draw_fold(records, class_names, num_folds=self.num_folds, fold=self.fold, seed=seed)
        if self.fold:
            raise UserError(f"data.fold={self.fold} needs the number of folds: add data.num_folds=5.")
        return draw_split(records, class_names, fractions=self.fractions, seed=seed)
