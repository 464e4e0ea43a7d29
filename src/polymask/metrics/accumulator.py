"""Collects the rows of an evaluation over batches and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

# Name to type and shape of one row.
_Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

# Apart from the attributes of a module, whatever the name of a tensor.
_STATE = "rows_"


class Accumulator(Metric):
    """Rows of tensors, one row per sample, that stay on their device until `compute`.

    The rows come out sorted by sample id, so the result is the same for any batch size, order of
    batches and number of processes. Evaluation is never padded: every sample counts once.

    The rows are list states of a `torchmetrics.Metric`, which moves them, gathers them from all
    processes in `compute`, forgets them in `reset`, and leaves them out of checkpoints. Three things
    the library does not know and are done here: states that are named by the first batch, processes
    without samples (`sync`), and types that cannot be sent (`_gather_bytes`).

    Args:
        repeats: Samples may come more than once, as when training draws with replacement.
    """

    ids: list[Tensor]  # text, see `_encode`: the states of the library hold tensors

    def __init__(self, *, repeats: bool = False) -> None:
        # A cache would hold the rows a second time.
        super().__init__(compute_with_cache=False, dist_sync_fn=_gather_bytes)
        self._repeats = repeats
        self._layout: _Layout = {}
        self.add_state("ids", [], dist_reduce_fx="cat")

    @property
    def update_called(self) -> bool:
        """Return True: no samples is no mistake here, and the library would warn in `compute`."""
        return True

    def update(self, ids: Sequence[str], **tensors: Tensor) -> None:
        """Add a batch without waiting for the device.

        Args:
            ids: (B,) ids of the samples.
            **tensors: (B, ...) one row per sample; the same names, types and shapes in every update.

        Raises:
            ValueError: A tensor does not have B rows, or the rows differ from those of before.
        """
        if self._layout and self._layout.keys() != tensors.keys():
            raise ValueError(f"rows hold {sorted(self._layout)}, the new batch {sorted(tensors)}.")
        for name, tensor in tensors.items():
            if tensor.shape[:1] != (len(ids),):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {len(ids)} rows.")
        layout = {name: (rows.dtype, tuple(rows.shape[1:])) for name, rows in tensors.items()}
        if not self._layout:
            self._declare(layout)
        elif layout != self._layout:
            raise ValueError(f"rows hold {self._layout}, the new batch {layout}.")
        self.ids.append(_encode(ids))
        for name, tensor in tensors.items():
            # A copy: a view would keep the whole batch alive, and a captured graph reuses its outputs.
            getattr(self, _STATE + name).append(tensor.clone())

    def compute(self) -> dict[str, np.ndarray]:
        """Gather the rows of all processes, sorted by id; with several processes all must call it.

        Returns:
            `ids`, (N,) str, and each name of `update`, (N, ...), in the same order. Floating-point
            tensors of 16 bits are float32, since bfloat16 has no numpy type; the others keep theirs. Only
            `ids` when there are no rows.

        Raises:
            ValueError: An id occurs twice without `repeats`, or processes hold different names.
        """
        ids = _decode(dim_zero_cat(self.ids) if len(self.ids) else torch.empty(0, dtype=torch.uint8))
        if not self._repeats:
            _check_unique(ids)
        order = np.argsort(ids, kind="stable")
        rows = {name: dim_zero_cat(getattr(self, _STATE + name)) for name in self._layout}
        return {"ids": ids[order], **{name: _to_numpy(tensor)[order] for name, tensor in rows.items()}}

    def sync(self, *args: Any, **options: Any) -> None:
        """Give every process the same states, each in one piece, and let the library gather them.

        The library gathers as many states as a process has. One without samples knows no names, and its
        states would be empty vectors of floats, whatever the others hold.

        Args:
            *args: As in `Metric.sync`.
            **options: As in `Metric.sync`.

        Raises:
            ValueError: Processes hold different names, types or shapes.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            super().sync(*args, **options)  # nothing to gather: rows stay on their device
            return
        layouts = [layout for layout in _gather_objects(self._layout) if layout]
        if any(layout != layouts[0] for layout in layouts):
            raise ValueError(f"processes hold different rows: {layouts}.")
        if layouts and not self._layout:
            self._declare(layouts[0])
        self.ids = [self._join(self.ids, torch.uint8, ())]
        for name, (dtype, shape) in self._layout.items():
            setattr(self, _STATE + name, [self._join(getattr(self, _STATE + name), dtype, shape)])
        super().sync(*args, **options)

    def reset(self) -> None:
        """Forget all rows and their names."""
        # After a `compute` that raised, the states still are those of all processes.
        self.unsync(should_unsync=self._is_synced)
        super().reset()
        for name in self._layout:
            # The library has no method to take a state back.
            for registry in (self._defaults, self._persistent, self._reductions):
                del registry[_STATE + name]
            delattr(self, _STATE + name)
        self._layout = {}

    def _declare(self, layout: _Layout) -> None:
        """Add the states of a first batch."""
        self._layout = layout
        for name in sorted(layout):  # all processes gather them in the same order
            self.add_state(_STATE + name, [], dist_reduce_fx="cat")

    def _join(self, rows: list[Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Return the (N, ...) rows of this process in one piece, on the device of the metric."""
        none = torch.empty((0, *shape), dtype=dtype, device=self.device)
        return torch.cat(rows).to(none) if rows else none


def _encode(ids: Sequence[str]) -> Tensor:
    """Return texts as uint8, each ended by a NUL, which no file name contains."""
    # File names that are not UTF-8 have surrogates in Python.
    text = bytearray("\0".join([*ids, ""]), "utf-8", "surrogatepass")
    return torch.from_numpy(np.frombuffer(text, np.uint8))


def _decode(text: Tensor) -> np.ndarray:
    """Return the (N,) texts of `_encode`."""
    ids = text.cpu().numpy().tobytes().decode("utf-8", "surrogatepass")
    return np.array(ids.split("\0")[:-1], dtype=str)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    """Move a tensor to host memory, floating point of 16 bits as float32."""
    is_half = tensor.is_floating_point() and tensor.element_size() == 2
    return (tensor.float() if is_half else tensor).cpu().numpy()


def _gather_objects(own: _Layout) -> list[_Layout]:
    """Return what each process has, in the order of ranks."""
    every: list[_Layout] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(every, own)
    return every


def _gather_bytes(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return the tensor of each process. As bytes, since neither gloo nor NCCL sends int16."""
    parts = gather_all_tensors(tensor.contiguous().view(torch.uint8), group)
    return [part.view(tensor.dtype) for part in parts]


def _check_unique(ids: np.ndarray) -> None:
    """Refuse repeated samples."""
    repeated = [name for name, count in Counter(ids.tolist()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} samples were evaluated more than once, first {repeated[0]!r}: evaluation must "
            "not be padded, sample ids must be unique, and reset() comes before the next evaluation."
        )
