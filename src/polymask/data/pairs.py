"""Verification of image-mask pairs before a training: names, sizes, orientation and mask values.

Every pair is looked at and every offender named.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from polymask.data.facts import ImageFacts, MaskFacts
from polymask.data.images import IMAGE_SUFFIXES
from polymask.data.inspection import FileMemory, image_facts, mask_facts
from polymask.data.tables import some
from polymask.errors import UserError

log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """An image file and the file of its mask."""

    id: str
    image: Path
    mask: Path


class Offence(NamedTuple):
    """What is wrong with the pair of one id."""

    id: str
    problem: str


def match_names(
    image_folder: Path, mask_folder: Path, *, image_suffix: str, mask_suffix: str
) -> tuple[list[Pair], list[Offence]]:
    """Match the images `{id}{image_suffix}` of one folder with the masks `{id}{mask_suffix}` of another.

    Args:
        image_folder: Where the images are.
        mask_folder: Where the masks are.
        image_suffix: End of the images' names.
        mask_suffix: End of the masks' names.

    Returns:
        The pairs, sorted by id; and an offence for each image without mask, each mask without image and each
        image file in one of the folders that is named otherwise. Files that are no images do not count.

    Raises:
        UserError: A folder cannot be read.
    """
    images, other_images = _scan(image_folder, image_suffix)
    masks, other_masks = _scan(mask_folder, mask_suffix)
    pairs = [
        Pair(id_, image_folder / (id_ + image_suffix), mask_folder / (id_ + mask_suffix))
        for id_ in sorted(images & masks)
    ]
    offences = [Offence(id_, f"no mask {id_}{mask_suffix} in {mask_folder}") for id_ in images - masks]
    offences += [Offence(id_, f"no image {id_}{image_suffix} in {image_folder}") for id_ in masks - images]
    offences += [Offence(name, f"in {image_folder}, but not named *{image_suffix}") for name in other_images]
    offences += [Offence(name, f"in {mask_folder}, but not named *{mask_suffix}") for name in other_masks]
    return pairs, sorted(offences)


def check_pairs(pairs: Sequence[Pair], memory: FileMemory) -> list[Offence]:
    """Look at the files of every pair: both readable, of one size, and turned alike.

    Args:
        pairs: What to look at.
        memory: What is known of the files from before.

    Returns:
        One offence per problem, in the order of the pairs.
    """
    images = image_facts([pair.image for pair in pairs], memory)
    masks = mask_facts([pair.mask for pair in pairs], memory)
    return [
        Offence(pair.id, problem)
        for pair, image, mask in zip(pairs, images, masks, strict=True)
        for problem in pair_problems(pair, image, mask)
    ]


def check_values(pairs: Sequence[Pair], memory: FileMemory) -> list[Offence]:
    """Check that the masks of readable pairs hold 0 and 255 and nothing else.

    Args:
        pairs: What to look at.
        memory: What is known of the files from before.

    Returns:
        One offence per mask with other values, in the order of the pairs.
    """
    offences = []
    for pair, mask in zip(pairs, mask_facts([pair.mask for pair in pairs], memory), strict=True):
        if isinstance(mask, UserError):
            continue
        strange = {value: pixels for value, pixels in mask.counts if value not in (0, 255)}
        if strange:
            share = sum(strange.values()) / (mask.height * mask.width)
            listed = some([str(value) for value in strange])
            problem = f"mask {pair.mask} has values other than 0 and 255 in {share:.2%} of it: {listed}"
            offences.append(Offence(pair.id, problem))
    return offences


def pair_problems(
    pair: Pair,
    image: ImageFacts | UserError,
    mask: MaskFacts | UserError | None,
    *,
    same_orientation: bool = True,
) -> list[str]:
    """Return what is wrong with the files of a pair.

    Args:
        pair: The files.
        image: Facts of the image, or why there are none.
        mask: Facts of the mask, or why there are none; None when the image has no mask file.
        same_orientation: Whether both must have the same EXIF orientation.
    """
    problems = [str(facts) for facts in (image, mask) if isinstance(facts, UserError)]
    if not isinstance(image, ImageFacts) or not isinstance(mask, MaskFacts):
        return problems
    if (mask.height, mask.width) != (image.height, image.width):
        problems.append(
            f"mask {pair.mask} is {mask.width} x {mask.height} pixels but its image is "
            f"{image.width} x {image.height}"
        )
    if same_orientation and mask.orientation != image.orientation:
        problems.append(
            f"mask {pair.mask} has EXIF orientation {mask.orientation}, but its image {image.orientation}"
        )
    return problems


def refuse(offences: Iterable[Offence], pairs: Iterable[Pair], *, where: Path, remedy: str) -> None:
    """Log each offence on a line of its own, then stop the run if there is any.

    Args:
        offences: What was found.
        pairs: All pairs that are complete by name, for the count.
        where: What the pairs belong to, for the message.
        remedy: End of the message.

    Raises:
        UserError: There are offences.
    """
    found = sorted(offences)
    for offence in found:
        log.error("%s: %s", offence.id, offence.problem)
    bad = list(dict.fromkeys(offence.id for offence in found))
    if bad:
        total = len({*bad, *(pair.id for pair in pairs)})
        first = found[0].problem.rstrip(".")
        raise UserError(
            f"{len(bad)} of {total} image-mask pairs of {where} do not fit: {some(bad)} ({first}; the log "
            f"says what is wrong with each). {remedy}"
        )


def _scan(folder: Path, suffix: str) -> tuple[set[str], list[str]]:
    """Return the ids of the files `{id}{suffix}`, and the names of all other image files."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}. Make it readable.") from error
    ids = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    others = [n for n in names if not n.endswith(suffix) and n.lower().endswith(IMAGE_SUFFIXES)]
    return ids, others
