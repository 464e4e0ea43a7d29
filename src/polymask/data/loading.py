"""How samples are loaded: sizes of batches, processes, the cache, and which values are black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polymask.data.intensity import Range, parse_range
from polymask.errors import choose, whole_number
from polymask.utils.cores import num_cores
from polymask.utils.paths import resolve

SAMPLERS = ("shuffle", "weighted")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the samples of a data set are loaded.

    Attributes:
        batch_size: Samples per optimisation step and process.
        eval_batch_size: Samples per batch of evaluation, None for twice `batch_size`.
        num_workers: Loader processes, at most one per core; 0 loads in the training process.
        sampler: `shuffle`, or `weighted` to draw all classes equally often.
        cache_dir: Folder for decoded samples, None for no cache.
        intensity_range: Values that become black and white, None for 0 to 255 where images have 8 bits and
            for percentiles of the training images where they have more, see `polymask.data.intensity`.

    Raises:
        UserError: A value is not allowed.
    """

    batch_size: int
    eval_batch_size: int | None = None
    num_workers: int = 0
    sampler: str = "shuffle"
    cache_dir: str | None = None
    intensity_range: Sequence[float] | None = None

    def __post_init__(self) -> None:
        choose("data.sampler", self.sampler, SAMPLERS)
        whole_number("data.batch_size", self.batch_size, least=1)
        if self.eval_batch_size is not None:
            whole_number("data.eval_batch_size", self.eval_batch_size, least=1)
        whole_number("data.num_workers", self.num_workers, least=0)
        parse_range(self.intensity_range)

    @property
    def evaluation_size(self) -> int:
        """Return the samples per batch of evaluation: without gradients there is room for more."""
        return 2 * self.batch_size if self.eval_batch_size is None else self.eval_batch_size

    @property
    def num_processes(self) -> int:
        """Return the loader processes: more than cores would only wait for one another."""
        return min(self.num_workers, num_cores())

    @property
    def cache_folder(self) -> Path | None:
        """Return the folder for decoded samples."""
        return resolve(self.cache_dir) if self.cache_dir else None

    @property
    def given_range(self) -> Range | None:
        """Return the values that become black and white, None when the images decide."""
        return parse_range(self.intensity_range)
