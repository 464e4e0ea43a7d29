"""From the slices of a volume to its objects, with a few slices in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from polymask.families.volumes.linking import Linker, Linking, apply_links
from polymask.families.volumes.predictions import SliceObjects, sections_of, slice_objects
from polymask.structures.volumes import FoundVolume

if TYPE_CHECKING:
    from polymask.models.slices.segmenter import SliceSegmenter


def find_volume(
    id_: str,
    network: SliceSegmenter,
    slices: Iterable[Tensor],
    *,
    seen: tuple[int, int],
    shape: tuple[int, int, int],
    linking: Linking,
    score_threshold: float,
    look: Callable[[SliceObjects], object] | None = None,
) -> FoundVolume:
    """Find the objects of a volume.

    Args:
        id_: Name of the volume.
        network: Finds sections in slices.
        slices: (H', W') float32 slices with values in [0, 1], in their order, on the network's device; each
            is asked for when it is needed.
        seen: (H', W') of the slices.
        shape: (Z, H, W) of the volume as it lies on disk, in whose voxels the objects shall be.
        linking: How sections become objects.
        score_threshold: Least score of a section.
        look: Called with all that was found in each slice, of any score.

    Returns:
        The objects; their labels lie in a file without a name, which is gone when they are.
    """
    labels = on_disk(np.uint16, shape)
    linker = Linker(linking, shape[1:])

    def found() -> Iterator[SliceObjects]:
        for raw in network.predict_volume(slices):
            objects = slice_objects(id_, raw, seen=seen, size=shape[1:])
            if look is not None:
                look(objects)
            yield objects

    for z, drawn in enumerate(_linked(linker, found(), score_threshold)):
        labels[z] = drawn
    links = linker.finish()
    apply_links(labels, links)
    return FoundVolume(id=id_, labels=labels, scores=links.scores, classes=links.classes)


def count_linked(found: Sequence[SliceObjects], linking: Linking, thresholds: Sequence[float]) -> np.ndarray:
    """Return how many objects the sections of a volume make with each threshold, (T,) int64.

    Args:
        found: All that was found in each slice, of any score.
        linking: How sections become objects.
        thresholds: Least scores of a section.
    """
    scores = np.concatenate([objects.scores for objects in found])
    counts: dict[int, int] = {}  # by the number of sections: where no score lies between two thresholds
    for threshold in thresholds:
        enough = np.count_nonzero(scores >= threshold)
        if enough not in counts:
            linker = Linker(linking, found[0].size)
            for _ in _linked(linker, found, threshold):
                pass
            counts[enough] = linker.count()
    return np.array([counts[np.count_nonzero(scores >= threshold)] for threshold in thresholds])


def _linked(linker: Linker, found: Iterable[SliceObjects], score_threshold: float) -> Iterator[np.ndarray]:
    """Hand slice by slice to the linker; yield the (H, W) uint16 section numbers of each."""
    for objects in found:
        sections = sections_of(objects, score_threshold, min_visible=linker.options.min_visible)
        linker.add(sections.labels, sections.scores, sections.classes, sections.embedding)
        yield sections.labels


def on_disk(dtype: type[np.generic], shape: tuple[int, int, int]) -> np.ndarray:
    """Return (Z, H, W) zeros in a temporary file, so that large volumes need not fit into memory."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
