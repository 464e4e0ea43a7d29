"""What the network finds in one slice: objects with masks of the file's size, and sections to be linked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from polymask.models.mask_rcnn.pasting import paste_masks
from polymask.structures import rle
from polymask.structures.crops import crop
from polymask.structures.objects import FoundObjects


@dataclass(frozen=True, kw_only=True)
class SliceObjects(FoundObjects):
    """All objects that were found in one slice, best score first.

    Attributes:
        embedding: (N, D) float32 what the network knows them again by, None without such a head.
    """

    embedding: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The objects of a slice that count, best score first.

    Attributes:
        labels: (H, W) uint16, 0 = background, n = the n-th section; where two overlap, the better score wins,
            so a section may have fewer pixels than its object.
        scores: (N,) float32.
        classes: (N,) int64 class index, from 0.
        embedding: (N, D) float32, or None.
    """

    labels: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    embedding: np.ndarray | None


def slice_objects(
    id_: str, raw: Mapping[str, Tensor], *, seen: tuple[int, int], size: tuple[int, int]
) -> SliceObjects:
    """Return what was found in a slice, leaving out objects with an empty mask.

    Args:
        id_: Name of the slice or of its volume.
        raw: What the network returned for the slice.
        seen: (height, width) of the slice as the network saw it, in whose pixels the boxes are.
        size: (height, width) of the file, which the result shall have.
    """
    (height, width), (seen_height, seen_width) = size, seen
    grown = raw["boxes"].new_tensor([width / seen_width, height / seen_height] * 2)
    boxes = raw["boxes"] * grown
    masks = paste_masks(raw["masks"], boxes, size)
    keep = [number for number, mask in enumerate(masks) if rle.area(mask) > 0]
    kept = {name: raw[name].float().cpu().numpy()[keep] for name in ("scores", "embedding") if name in raw}
    return SliceObjects(
        id=id_,
        size=size,
        boxes=boxes.float().cpu().numpy()[keep].clip(0, np.array([width, height] * 2, np.float32)),
        labels=raw["labels"].cpu().numpy()[keep],
        masks=[masks[number] for number in keep],
        scores=kept["scores"],
        embedding=kept.get("embedding"),
    )


def sections_of(objects: SliceObjects, score_threshold: float, *, min_visible: float) -> Sections:
    """Draw the objects of at least that score into one map, the best first, each where there is still room.

    Of two detections of one object, the worse has hardly any room left: what remains of it, a thin ring, is
    no object. The rule is that of Kirillov et al. ("Panoptic Segmentation", CVPR 2019, arXiv 1801.00868).

    Args:
        objects: All objects of a slice, best score first.
        score_threshold: Least score of an object that counts.
        min_visible: Least share of an object's pixels that must be left.
    """
    confident = objects[objects.scores >= score_threshold]
    labels = np.zeros(objects.size, np.uint16)
    kept: list[int] = []
    for number, mask in enumerate(confident.masks):
        piece = crop(mask)
        window = labels[piece.window]
        free = piece.mask & (window == 0)
        if free.any() and np.count_nonzero(free) >= min_visible * np.count_nonzero(piece.mask):
            kept.append(number)
            window[free] = len(kept)
    drawn = confident[np.array(kept, np.int64)]
    return Sections(labels=labels, scores=drawn.scores, classes=drawn.labels, embedding=drawn.embedding)
