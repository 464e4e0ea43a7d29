"""Collects the rows of an evaluation over batches and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed

_Rows = tuple[list[str], dict[str, np.ndarray]]


class Accumulator:
    """Rows of tensors, one row per sample, that stay on their device until `compute`.

    The rows come out sorted by sample id, so the result is the same for any batch size, order of
    batches and number of processes. Evaluation is never padded: every sample counts once.

    Args:
        repeats: Samples may come more than once, as when training draws with replacement.
    """

    def __init__(self, *, repeats: bool = False) -> None:
        self._repeats = repeats
        self._ids: list[str] = []
        self._tensors: dict[str, list[Tensor]] = {}

    def update(self, ids: Sequence[str], **tensors: Tensor) -> None:
        """Add a batch without waiting for the device.

        Args:
            ids: (B,) ids of the samples.
            **tensors: (B, ...) one row per sample; the same names in every update.

        Raises:
            ValueError: A tensor does not have B rows, or the names differ from those of before.
        """
        if self._tensors and self._tensors.keys() != tensors.keys():
            raise ValueError(f"rows hold {sorted(self._tensors)}, the new batch {sorted(tensors)}.")
        for name, tensor in tensors.items():
            if tensor.ndim == 0 or len(tensor) != len(ids):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {len(ids)} rows.")
        self._ids.extend(ids)
        for name, tensor in tensors.items():
            # A copy: a view would keep the whole batch alive, and a captured graph reuses its outputs.
            self._tensors.setdefault(name, []).append(tensor.detach().clone())

    def compute(self) -> dict[str, np.ndarray]:
        """Gather the rows of all processes, sorted by id; with several processes all must call it.

        Returns:
            `ids`, (N,) str, and each name of `update`, (N, ...), in the same order. Floating-point
            tensors are float32, since bfloat16 has no numpy type; the others keep theirs. Only `ids`
            when there are no rows.

        Raises:
            ValueError: An id occurs twice without `repeats`, or processes hold different names.
        """
        # A process without samples knows no names: only the others say what a row holds.
        parts = [(ids, arrays) for ids, arrays in _gather(self._rows()) if ids]
        ids = np.array([name for part, _ in parts for name in part], dtype=str)
        _check_names(parts)
        if not self._repeats:
            _check_unique(ids)
        order = np.argsort(ids, kind="stable")
        names = parts[0][1] if parts else {}
        rows = {name: np.concatenate([arrays[name] for _, arrays in parts])[order] for name in names}
        return {"ids": ids[order], **rows}

    def reset(self) -> None:
        """Forget all rows."""
        self._ids.clear()
        self._tensors.clear()

    def _rows(self) -> _Rows:
        """Return the rows of this process in host memory."""
        return self._ids, {name: _to_numpy(torch.cat(rows)) for name, rows in self._tensors.items()}


def _to_numpy(tensor: Tensor) -> np.ndarray:
    """Move a tensor to host memory, floating point as float32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _gather(rows: _Rows) -> list[_Rows]:
    """Return the rows of each process, in the order of ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [rows]
    parts: list[_Rows] = [([], {})] * distributed.get_world_size()
    distributed.all_gather_object(parts, rows)
    return parts


def _check_unique(ids: np.ndarray) -> None:
    """Refuse repeated samples."""
    repeated = [name for name, count in Counter(ids.tolist()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} samples were evaluated more than once, first {repeated[0]!r}: evaluation must "
            "not be padded, sample ids must be unique, and reset() comes before the next evaluation."
        )


def _check_names(parts: Sequence[_Rows]) -> None:
    """Refuse processes that collected different things."""
    names = {tuple(sorted(arrays)) for _, arrays in parts}
    if len(names) > 1:
        raise ValueError(f"processes hold different rows: {sorted(names)}.")
