"""Sections of neighbouring slices become one object of the volume.

A section continues the one of the last slice that it overlaps most, if that one overlaps it most in turn; one
that continues none may continue a section of an earlier slice, which closes gaps; and a convex object that
has begun to shrink does not grow again. Where two sections merge, the larger overlap keeps the number and the
other object ends, or resumes behind the gap; where one splits, the larger overlap keeps the number, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polymask.errors import UserError, choose, number, whole_number
from polymask.families.volumes.gaps import fill_gap, find_gaps
from polymask.families.volumes.matching import QUALITIES, LinkedSections, continue_sections

MOST_OBJECTS = 65_535
"""Numbers that 16 bits hold beside the background."""


@dataclass(frozen=True, kw_only=True)
class Linking:
    """How sections are linked: the options `task.linking`.

    Attributes:
        name: What says which sections belong together: `overlap`, or `embedding`, the matching scores of a
            network's embeddings of the sections; both within the rules below.
        min_visible: Least share of a section that surer ones of its slice leave of it; else it is dropped.
        min_iou: Least intersection over union (IoU) of sections of neighbouring slices.
        gap: Slices in a row in which an object may be missing.
        gap_iou: Least IoU of two sections with missing ones between them.
        convex: Whether the sections of an object may only grow and then shrink, as those of nuclei do and
            those of cells with branches do not.
        convex_ratio: An object shrinks once a section is smaller than this share of its largest; it ends
            before a section that is larger than the smallest one since then, divided by this share.
        min_slices: Least sections of an object. One is enough in the first and last slice of the volume,
            where the rest may lie outside.
        min_score: Least mean score of an object's sections.
        fill_gaps: Whether missing sections are drawn.
        iou_weight: With `embedding`, what an IoU of 1 adds to the logarithm of the matching probability.

    Raises:
        UserError: A value is out of range.
    """

    name: str = "overlap"
    min_visible: float = 0.25
    min_iou: float = 0.1
    gap: int = 1
    gap_iou: float = 0.4
    convex: bool = True
    convex_ratio: float = 0.8
    min_slices: int = 2
    min_score: float = 0.0
    fill_gaps: bool = False
    iou_weight: float = 2.0

    def __post_init__(self) -> None:
        choose("task.linking.name", self.name, QUALITIES)
        for key in ("min_visible", "min_iou", "gap_iou", "min_score"):
            number(f"task.linking.{key}", getattr(self, key), least=0, most=1)
        number("task.linking.convex_ratio", self.convex_ratio, above=0, most=1)
        number("task.linking.iou_weight", self.iou_weight, least=0)
        whole_number("task.linking.gap", self.gap, least=0)
        whole_number("task.linking.min_slices", self.min_slices, least=1)
        for key in ("convex", "fill_gaps"):
            value = getattr(self, key)
            if not isinstance(value, bool):
                raise UserError(f"task.linking.{key}={value!r} is not valid; give true or false.")

    def check(self, *, embeds: bool) -> None:
        """Raise UserError when sections are linked by their embeddings, which the network does not give."""
        if self.name == "embedding" and not embeds:
            raise UserError(
                "task.linking.name=embedding needs a network that embeds sections: set model.embedding=true, "
                "or task.linking.name=overlap."
            )


@dataclass(frozen=True, kw_only=True)
class Links:
    """The N objects of a volume.

    Attributes:
        numbers: Per slice, (n + 1,) uint16: section number to object number 1 to N, 0 for sections that are
            dropped and for the background, place 0.
        scores: (N,) float32 mean score of an object's sections.
        classes: (N,) int64 class with the highest summed score of an object's sections.
        gaps: (M, 3) int64 number of an object, last slice before and first slice behind missing sections that
            shall be drawn; none unless `Linking.fill_gaps`.
    """

    numbers: Sequence[np.ndarray]
    scores: np.ndarray
    classes: np.ndarray
    gaps: np.ndarray


class Linker:
    """Takes the sections of one slice after the other; holds the labels of `gap` + 1 slices.

    Args:
        options: The rules.
        size: (height, width) of the slices in pixels.
    """

    def __init__(self, options: Linking, size: tuple[int, int]) -> None:
        self.options, self.size = options, tuple(size)
        self._recent: deque[LinkedSections] = deque(maxlen=options.gap + 1)  # the newest is the first
        self._objects: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._classes: list[np.ndarray] = []
        self._num_objects = 0

    def add(
        self,
        labels: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        embedding: np.ndarray | None = None,
    ) -> None:
        """Take the next slice.

        Args:
            labels: (H, W) uint16 section numbers 1 to n, 0 = background. A section without pixels belongs to
                no object.
            scores: (n,) score of each section.
            classes: (n,) class index of each section.
            embedding: (n, D) of each section, for linking by embeddings.

        Raises:
            UserError: Linking by embeddings gets none.
            ValueError: The labels have another size, or there are more than n.
        """
        if labels.shape != self.size or labels.max(initial=0) > len(scores):
            found = f"labels of size {labels.shape} up to {labels.max(initial=0)}"
            raise ValueError(f"{found}, expected {self.size} and {len(scores)} sections.")
        self.options.check(embeds=embedding is not None)
        new = LinkedSections.unlinked(labels, len(scores), embedding)
        for distance, old in enumerate(self._recent):
            continue_sections(
                old,
                new,
                name=self.options.name,
                min_iou=self.options.gap_iou if distance else self.options.min_iou,
                convex_ratio=self.options.convex_ratio if self.options.convex else None,
                iou_weight=self.options.iou_weight,
            )
        begun = np.flatnonzero((new.objects < 0) & ~new.ended)
        new.objects[begun] = self._num_objects + np.arange(len(begun))
        self._num_objects += len(begun)
        self._recent.appendleft(new)
        self._objects.append(new.objects)
        self._scores.append(np.asarray(scores, np.float64))
        self._classes.append(np.asarray(classes, np.int64))

    def finish(self) -> Links:
        """Return the objects of all slices taken, numbered in the order of their first sections.

        Raises:
            UserError: There are more than 65,535.
        """
        objects, scores, classes, slices = self._sections()
        means = _mean_scores(objects, scores, self._num_objects)
        kept = self._long_enough(objects, slices) & (means >= self.options.min_score)
        if kept.sum() > MOST_OBJECTS:
            raise UserError(
                f"{kept.sum():,} objects in one volume are more than 16 bits can number ({MOST_OBJECTS:,}); "
                "raise task.score_threshold, task.linking.min_score or task.linking.min_slices."
            )
        # The added place answers for -1, no object.
        number_of = np.append(np.where(kept, np.cumsum(kept), 0), 0)
        gaps = find_gaps(number_of[objects], slices)
        return Links(
            numbers=[number_of[of_slice].astype(np.uint16) for of_slice in self._objects],
            scores=means[kept].astype(np.float32),
            classes=_surest_classes(objects, scores, classes, self._num_objects)[kept],
            gaps=gaps if self.options.fill_gaps else gaps[:0],
        )

    def _sections(self) -> tuple[np.ndarray, ...]:
        """Return object, score, class and slice of all sections with pixels, each (S,)."""
        objects = np.concatenate([np.zeros(0, np.int64), *(of_slice[1:] for of_slice in self._objects)])
        scores = np.concatenate([np.zeros(0), *self._scores])
        classes = np.concatenate([np.zeros(0, np.int64), *self._classes])
        slices = np.repeat(np.arange(len(self._scores)), [len(of_slice) for of_slice in self._scores])
        has_pixels = objects >= 0
        return tuple(values[has_pixels] for values in (objects, scores, classes, slices))

    def _long_enough(self, objects: np.ndarray, slices: np.ndarray) -> np.ndarray:
        """Return whether each object has sections enough, (N,) bool."""
        at_end = (slices == 0) | (slices == len(self._scores) - 1)
        touches_end = np.bincount(objects, at_end, minlength=self._num_objects) > 0
        return touches_end | (np.bincount(objects, minlength=self._num_objects) >= self.options.min_slices)


def apply_links(labels: np.ndarray, links: Links) -> None:
    """Renumber a label volume in place, slice by slice, and draw the missing sections that `links` names.

    Args:
        labels: (Z, H, W) uint16 section numbers as the `Linker` took them, afterwards object numbers 1 to N;
            may be memory-mapped.
        links: What the linker returned.
    """
    for z, numbers in enumerate(links.numbers):
        labels[z] = numbers[labels[z]]
    for gap in links.gaps.tolist():
        fill_gap(labels, *gap)


def _mean_scores(objects: np.ndarray, scores: np.ndarray, num_objects: int) -> np.ndarray:
    """Return the mean score of the sections of each object, (N,) float64."""
    counts = np.bincount(objects, minlength=num_objects)
    return np.bincount(objects, scores, minlength=num_objects) / counts


def _surest_classes(
    objects: np.ndarray, scores: np.ndarray, classes: np.ndarray, num_objects: int
) -> np.ndarray:
    """Return the class with the highest summed score of each object, (N,); of equal sums the lowest."""
    num_classes = int(classes.max(initial=0)) + 1
    sums = np.bincount(objects * num_classes + classes, scores, minlength=num_objects * num_classes)
    return sums.reshape(num_objects, num_classes).argmax(axis=1)
