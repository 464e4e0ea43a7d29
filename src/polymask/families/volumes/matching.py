"""Which sections of one slice continue which of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polymask.structures.overlaps import Overlaps, count_overlaps, intersection_over_union, mutual_best


@dataclass(kw_only=True)
class LinkedSections:
    """The n sections of a slice, and what is known of their objects; all but `labels` by section number.

    Attributes:
        labels: (H, W) section numbers 1 to n, 0 = background.
        areas: (n + 1,) pixels.
        objects: (n + 1,) number of the section's object from 0, -1 for none (yet).
        ended: (n + 1,) bool: nothing can continue the section.
        largest: (n + 1,) largest area of the object so far.
        smallest: (n + 1,) smallest area of the object since its largest.
        embedding: (n + 1, D) float64, None without.
    """

    labels: np.ndarray
    areas: np.ndarray
    objects: np.ndarray
    ended: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    embedding: np.ndarray | None

    @classmethod
    def unlinked(cls, labels: np.ndarray, num_sections: int, embedding: np.ndarray | None) -> LinkedSections:
        """Return sections without objects; those without pixels, and the background, never get one."""
        areas = np.bincount(labels.ravel(), minlength=num_sections + 1)
        return cls(
            labels=labels,
            areas=areas,
            objects=np.full(num_sections + 1, -1),
            ended=(areas == 0) | (np.arange(num_sections + 1) == 0),
            largest=areas.copy(),
            smallest=areas.copy(),
            embedding=None if embedding is None else np.pad(embedding, ((1, 0), (0, 0))).astype(np.float64),
        )

    def only(self, wanted: np.ndarray) -> np.ndarray:
        """Return the labels (H, W) of the sections that `wanted` (n + 1,) bool names, 0 elsewhere."""
        return np.where(wanted, np.arange(len(wanted)), 0)[self.labels]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P sections of an old slice and sections of a new one that overlap.

    Attributes:
        old: The old slice.
        new: The new slice.
        overlaps: The pairs of their numbers.
        iou: (P,) float64 intersection over union.
    """

    old: LinkedSections
    new: LinkedSections
    overlaps: Overlaps
    iou: np.ndarray


def continue_sections(
    old: LinkedSections,
    new: LinkedSections,
    *,
    name: str,
    min_iou: float,
    convex_ratio: float | None,
    iou_weight: float,
) -> None:
    """Let new sections without an object continue old ones that nothing continues, each at most one.

    Args:
        old: An earlier slice.
        new: The new one.
        name: Which of `QUALITIES` says how well pairs fit.
        min_iou: Least intersection over union.
        convex_ratio: Of `grows_again`, None where objects may do so.
        iou_weight: Of `embedding_quality`.
    """
    is_open, is_free = ~old.ended, (new.objects < 0) & ~new.ended
    if not (is_open.any() and is_free.any()):
        return  # as for most slices behind a gap
    overlaps = count_overlaps(old.only(is_open), new.only(is_free))
    iou = intersection_over_union(overlaps, old.areas, new.areas)
    pairs = Pairs(old=old, new=new, overlaps=overlaps, iou=iou)
    quality, is_same = QUALITIES[name](pairs, iou_weight)
    allowed = is_same & (iou >= min_iou)
    if convex_ratio is not None:
        allowed &= ~grows_again(pairs, convex_ratio)
    overlaps = Overlaps(*(values[allowed] for values in overlaps))
    best = mutual_best(overlaps, quality[allowed])
    _link(old, new, overlaps.first[best], overlaps.second[best])


def _link(old: LinkedSections, new: LinkedSections, before: np.ndarray, after: np.ndarray) -> None:
    """Let the new sections `after` continue the old ones `before`, both (M,) numbers."""
    old.ended[before] = True
    new.objects[after] = old.objects[before]
    areas = new.areas[after]
    is_largest = areas >= old.largest[before]
    new.largest[after] = np.maximum(areas, old.largest[before])
    new.smallest[after] = np.where(is_largest, areas, np.minimum(areas, old.smallest[before]))


def grows_again(pairs: Pairs, ratio: float) -> np.ndarray:
    """Return (P,) bool: the old section's object shrinks already, and the new section is too large.

    Sections of a convex object grow, then shrink. Shrinking begins with a section smaller than `ratio` times
    the object's largest; too large is what exceeds the smallest since then divided by `ratio`.
    """
    before, areas = pairs.overlaps.first, pairs.new.areas[pairs.overlaps.second]
    largest, smallest = pairs.old.largest[before], pairs.old.smallest[before]
    return (smallest < ratio * largest) & (areas > smallest / ratio)


def overlap_quality(pairs: Pairs, iou_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how well pairs fit, their IoU, and that all may be one object: (P,) float64 and bool."""
    return pairs.iou, np.ones(len(pairs.iou), bool)


def embedding_quality(pairs: Pairs, iou_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how well pairs fit, and whether they are rather one object than two: (P,) float64 and bool.

    The rule of MaskTrack R-CNN (Yang, Fan and Xu, "Video instance segmentation", ICCV 2019), with slices as
    its frames: the probability that a new section is the same object as an old one is the softmax of the
    products of its embedding with those of all old ones, and with "new", whose product is 0; the logarithm of
    the probability and the weighted IoU add up. Old sections that do not overlap the new one are left out, so
    that objects far from each other are never one.
    """
    before, after = pairs.overlaps.first, pairs.overlaps.second
    assert pairs.old.embedding is not None
    assert pairs.new.embedding is not None
    products = np.einsum("ij,ij->i", pairs.old.embedding[before], pairs.new.embedding[after])
    total = np.zeros(len(pairs.new.areas))  # logarithm of exp(0), the part of "new"
    np.logaddexp.at(total, after, products)
    weighted = products + iou_weight * pairs.iou
    return weighted - total[after], weighted > 0


QUALITIES: dict[str, Callable[[Pairs, float], tuple[np.ndarray, np.ndarray]]] = {
    "overlap": overlap_quality,
    "embedding": embedding_quality,
}
"""By `task.linking.name`."""
