"""Verification of image-mask pairs before a training: names, sizes and mask values.

Every pair is looked at and every offender named; pairs that passed are remembered, so that a later start
costs no more than asking for the files' sizes and times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from polymask.data.cache import file_key
from polymask.data.images import IMAGE_SUFFIXES, decode, read_image
from polymask.data.reading import read_ahead
from polymask.data.tables import some
from polymask.errors import UserError
from polymask.utils.files import write_text

log = logging.getLogger(__name__)

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)  # orientations of EXIF that swap width and height
_JPEG_END = b"\xff\xd9"
_RULES = "2"  # raised when a pair that passed must be looked at again by new rules


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


def check_pairs(pairs: Sequence[Pair], *, memory: Path | None = None) -> list[Offence]:
    """Look at the files of every pair: both readable, of one size, and the mask's values 0 and 255.

    Args:
        pairs: What to look at.
        memory: JSON file that remembers which pairs have passed, until a file's size or time changes;
            None looks at all of them.

    Returns:
        One offence per problem, in the order of the pairs.
    """
    passed = _recall(memory)

    def look(pair: Pair) -> tuple[str, list[str]]:
        key = _key(pair)  # before the look: a file that changes meanwhile is looked at again
        return key, [] if key in passed else _problems(pair)

    verdicts = list(read_ahead(look, pairs))
    good = {key for key, problems in verdicts if key and not problems}
    if good != passed:
        known = sum(key in passed for key, _ in verdicts)
        log.info("verified %d image-mask pairs, %d known from before", len(pairs), known)
        _remember(memory, good)
    return [
        Offence(pair.id, text)
        for pair, (_, problems) in zip(pairs, verdicts, strict=True)
        for text in problems
    ]


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
        raise UserError(
            f"{len(bad)} of {total} image-mask pairs of {where} do not fit: {some(bad)} (the log says "
            f"what is wrong with each). {remedy}"
        )


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` gives them; of a whole JPEG only the header is decoded.

    Raises:
        UserError: The file is missing or is no readable image.
    """
    # Whatever the header reader stumbles over, decoding decides.
    with contextlib.suppress(Exception), Image.open(path) as image:
        if image.format == "JPEG" and _is_whole_jpeg(path):
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS
            return (width, height) if turned else (height, width)
    height, width = read_image(path).shape[:2]
    return height, width


def _is_whole_jpeg(path: Path) -> bool:
    """Return whether the file ends as a JPEG does; one that was cut off has an intact header."""
    with path.open("rb") as file:
        file.seek(-len(_JPEG_END), os.SEEK_END)
        return file.read() == _JPEG_END


def _scan(folder: Path, suffix: str) -> tuple[set[str], list[str]]:
    """Return the ids of the files `{id}{suffix}`, and the names of all other image files."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}. Make it readable.") from error
    ids = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    others = [n for n in names if not n.endswith(suffix) and n.lower().endswith(IMAGE_SUFFIXES)]
    return ids, others


def _problems(pair: Pair) -> list[str]:
    problems: list[str] = []
    size = None
    try:
        size = image_size(pair.image)
    except UserError as error:
        problems.append(str(error))
    mask = decode(pair.mask, cv2.IMREAD_UNCHANGED)
    if mask is None:
        return [*problems, f"cannot read mask {pair.mask}: the file is missing, empty or damaged"]
    if size is not None and mask.shape[:2] != size:
        problems.append(
            f"mask {pair.mask} is {mask.shape[1]} x {mask.shape[0]} pixels but its image is "
            f"{size[1]} x {size[0]}"
        )
    values = mask if mask.ndim == 2 else mask[..., :3]  # a fourth channel is opacity
    strange = values[(values != 0) & (values != 255)]
    if strange.size:
        listed = some([str(value) for value in np.unique(strange)])
        share = strange.size / values.size
        problems.append(f"mask {pair.mask} has values other than 0 and 255 in {share:.2%} of it: {listed}")
    return problems


def _key(pair: Pair) -> str:
    """Return a text that changes when one of the files does, "" when one is not there."""
    try:
        text = "\n".join([_RULES, file_key(pair.image), file_key(pair.mask)])
    except UserError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _recall(memory: Path | None) -> set[str]:
    # The memory only saves time: one that is absent or damaged means to look again.
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(memory.read_text(encoding="utf-8")) if memory is not None else []
        if isinstance(content, list):
            return {key for key in content if isinstance(key, str) and key}
    return set()


def _remember(memory: Path | None, keys: Iterable[str]) -> None:
    if memory is None:
        return
    try:
        write_text(memory, json.dumps(sorted(keys), indent=0) + "\n")
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): the pairs are looked at again next time.", memory, error.strerror
        )
