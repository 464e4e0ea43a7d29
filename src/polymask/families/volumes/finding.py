"""From the slices of a volume to its objects, with a few slices in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
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

    def found() -> Iterator[SliceObjects]:
        for raw in network.predict_volume(slices):
            objects = slice_objects(id_, raw, seen=seen, size=shape[1:])
            if look is not None:
                look(objects)
            yield objects

    return link_volume(id_, found(), shape=shape, linking=linking, score_threshold=score_threshold)


def link_volume(
    id_: str,
    found: Iterable[SliceObjects],
    *,
    shape: tuple[int, int, int],
    linking: Linking,
    score_threshold: float,
) -> FoundVolume:
    """Link what was found in the slices of a volume, in their order; other arguments as in `find_volume`."""
    labels = on_disk(np.uint16, shape)
    linker = Linker(linking, shape[1:])
    for z, objects in enumerate(found):
        sections = sections_of(objects, score_threshold, min_visible=linking.min_visible)
        labels[z] = sections.labels
        linker.add(sections.labels, sections.scores, sections.classes, sections.embedding)
    links = linker.finish()
    apply_links(labels, links)
    return FoundVolume(id=id_, labels=labels, scores=links.scores, classes=links.classes)


def on_disk(dtype: type[np.generic], shape: tuple[int, int, int]) -> np.ndarray:
    """Return (Z, H, W) zeros in a temporary file, so that large volumes need not fit into memory."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
