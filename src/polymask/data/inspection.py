"""Facts of a data set's files (sizes, values, orientation), found once and remembered.

Every file is looked at before a training starts, so that what is wrong with any of them is said then. A later
start costs no more than asking for the files' sizes and times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from polymask.data.cache import file_status
from polymask.data.decoding import check_pages, grey_and_alpha, read_deep, read_values
from polymask.data.facts import ImageFacts, MaskFacts
from polymask.data.headers import is_whole, read_header
from polymask.data.images import read_image
from polymask.data.reading import read_ahead
from polymask.errors import UserError
from polymask.utils.files import write_text

log = logging.getLogger(__name__)

MEMORY_DIR = ".cache/samples/facts"
"""Where memories lie, below `data.cache_dir`."""

_RULES = 1  # raised when files must be looked at again because their facts are other ones
_CHUNK = 200  # files per call of a thread that asks for sizes and times
_PATIENCE = 5.0  # seconds between notes on how far a long look has come
_MOST_COLOURS, _MOST_VALUES = 8, 1024  # kept of a file that has more

Item = TypeVar("Item")
Value = TypeVar("Value")


class FileMemory:
    """Remembers on disk what was found in the files of one data set.

    Args:
        folder: Where memories live, None to remember nothing.
        root: Folder of the data set, which has a memory of its own.
    """

    def __init__(self, folder: Path | None, root: Path) -> None:
        self._root = root
        name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
        self._path = folder / f"{name}.json" if folder is not None else None
        self._known = self._load()

    def facts(
        self,
        kind: str,
        items: Sequence[Item],
        *,
        name: Callable[[Item], str],
        stamp: Callable[[Item], str],
        look: Callable[[Item], Sequence[object]],
    ) -> Iterator[Sequence[object] | UserError]:
        """Yield the facts of each item, in order: remembered ones, else those that `look` finds in threads.

        Args:
            kind: What is looked for, in plural: part of the key, and a word of the log.
            items: What has facts.
            name: Returns the item's name, unique for its kind.
            stamp: Returns a text that changes when the item does; asked for before the look, so that a file
                that changes meanwhile is looked at again.
            look: Returns facts that JSON can hold.

        Yields:
            The facts, or the UserError that `stamp` or `look` raised; errors are not remembered.
        """
        keys = [f"{kind}|{name(item)}" for item in items]
        stamps = _in_chunks(stamp, items)
        unknown = [
            index
            for index, (key, now) in enumerate(zip(keys, stamps, strict=True))
            if isinstance(now, str) and self._known.get(key, ("",))[0] != now
        ]
        looked = dict(zip(unknown, self._look(kind, [items[i] for i in unknown], look), strict=True))
        for index, found in looked.items():
            if not isinstance(found, UserError):
                self._known[keys[index]] = (str(stamps[index]), found)
        if unknown:
            log.info("looked into %d %s of %s, %d known from before", len(unknown), kind, self._root,
                     len(items) - len(unknown))  # fmt: skip
            self._save()
        for index, (key, now) in enumerate(zip(keys, stamps, strict=True)):
            if isinstance(now, UserError):
                yield now
            else:
                yield looked[index] if index in looked else self._known[key][1]

    def _look(
        self, kind: str, items: Sequence[Item], look: Callable[[Item], Sequence[object]]
    ) -> Iterator[Sequence[object] | UserError]:
        said = time.monotonic()
        for number, found in enumerate(read_ahead(lambda item: _attempt(look, item), items)):
            yield found
            if time.monotonic() - said > _PATIENCE:
                said = time.monotonic()
                log.info("looking into the %s of %s: %d of %d", kind, self._root, number + 1, len(items))

    def _load(self) -> dict[str, tuple[str, Sequence[object]]]:
        # It only saves time: a memory that is absent, damaged or of other rules means to look again.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
            if content["rules"] == _RULES:
                return {key: (str(stamp), facts) for key, (stamp, facts) in content["files"].items()}
        return {}

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps({"rules": _RULES, "files": self._known}))
        except OSError as error:
            note = "%s cannot be written (%s): the files are looked at again next time."
            log.warning(note, self._path, error.strerror)


def image_facts(paths: Sequence[Path], memory: FileMemory) -> list[ImageFacts | UserError]:
    """Return the facts of image files from their headers, or what is wrong with one."""
    found = memory.facts("images", paths, name=str, stamp=_file_stamp, look=look_at_image)
    return [facts if isinstance(facts, UserError) else ImageFacts(*facts) for facts in found]  # type: ignore[arg-type]


def mask_facts(paths: Sequence[Path], memory: FileMemory) -> list[MaskFacts | UserError]:
    """Return the facts of mask files, each decoded once, or what is wrong with one."""
    found = memory.facts("masks", paths, name=str, stamp=_file_stamp, look=look_at_mask)
    return [facts if isinstance(facts, UserError) else MaskFacts(*facts) for facts in found]  # type: ignore[arg-type]


def look_at_image(path: Path) -> ImageFacts:
    """Read the header of an image; only where that does not tell whether the file is whole, decode it.

    Raises:
        UserError: The file is missing, holds several pages or is no readable image.
    """
    header = read_header(path)
    if header is not None:
        check_pages(header.pages, path, "image")
    if header is None or not is_whole(path, header):
        read = read_image if header is not None and header.bits <= 8 else read_deep
        height, width = read(path).shape[:2]
        if header is None:
            return ImageFacts(height, width, 8, 1)
    else:
        height, width = header.height, header.width
    return ImageFacts(height, width, header.bits, header.orientation, header.is_float)


def look_at_mask(path: Path) -> MaskFacts:
    """Decode a mask and count its values.

    Raises:
        UserError: The file is missing, holds several pages, is no readable image or has values that are no
            whole numbers from 0 to 65535.
    """
    values = _whole_numbers(read_values(path, "mask"), path)
    header = read_header(path)
    is_lossy = header is not None and header.format in ("JPEG", "MPO")
    grey, alpha = grey_and_alpha(values)
    counts, alpha_counts = _counts(grey), None if alpha is None else _counts(alpha)
    # Of the channel that may be the mask: constant greys say nothing.
    level = _level_pixels(grey, counts)
    if alpha is not None and alpha_counts is not None and len(counts) == 1:
        level = _level_pixels(alpha, alpha_counts)
    return MaskFacts(
        height=grey.shape[0],
        width=grey.shape[1],
        bits=8 * values.itemsize if header is None else header.bits,
        orientation=1 if header is None else header.orientation,
        lossy=is_lossy,
        counts=counts,
        colours=_colours(values, tolerance=16 if is_lossy else 0),
        alpha=alpha_counts,
        level_pixels=level,
    )


def _file_stamp(path: Path) -> str:
    status = file_status(path)
    return f"{status.st_size}|{status.st_mtime_ns}"


def _attempt(function: Callable[[Item], Value], item: Item) -> Value | UserError:
    try:
        return function(item)
    except UserError as error:
        return error


def _in_chunks(function: Callable[[Item], Value], items: Sequence[Item]) -> list[Value | UserError]:
    """Return `function` of each item, or its UserError; threads take many items at a time."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    answers = read_ahead(lambda chunk: [_attempt(function, item) for item in chunk], chunks)
    return [answer for chunk in answers for answer in chunk]


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype == bool:
        return values.astype(np.uint8)
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= 65535 and np.array_equal(values, np.round(values))):  # also NaN
        raise UserError(
            f"mask {path} has values from {least:g} to {most:g} that are no whole numbers from 0 to 65535; "
            "save it as an 8-bit image with 0 and 255."
        )
    return values.astype(np.uint16)


def _counts(channel: np.ndarray) -> list[list[int]]:
    """Return [value, pixels] pairs of a (H, W) channel, in the order of the values."""
    levels = 256 if channel.dtype == np.uint8 else 65536
    pixels = cv2.calcHist([channel], [0], None, [levels], [0, levels]).ravel().astype(np.int64)
    values = np.flatnonzero(pixels)
    if len(values) > _MOST_VALUES:
        coarse = np.bincount(values // 257, weights=pixels[values]).astype(np.int64)
        values = np.flatnonzero(coarse)
        return np.stack([values * 257, coarse[values]], axis=1).tolist()
    return np.stack([values, pixels[values]], axis=1).tolist()


def _colours(values: np.ndarray, *, tolerance: int) -> list[list[int]]:
    """Return the most frequent colours of (H, W, C) RGB as [0xRRGGBB, pixels]; none when channels agree."""
    if values.ndim == 2 or values.shape[2] < 3:
        return []
    colours = values[..., :3]
    if (colours.max(axis=-1) - colours.min(axis=-1) <= tolerance).all():
        return []
    if colours.dtype == np.uint16:
        colours = colours >> 8 if colours.max() > 255 else colours
    codes = colours.astype(np.int64) @ np.array([65536, 256, 1])
    found, pixels = np.unique(codes, return_counts=True)
    order = np.argsort(-pixels, kind="stable")[:_MOST_COLOURS]
    return np.stack([found[order], pixels[order]], axis=1).tolist()


def _level_pixels(grey: np.ndarray, counts: list[list[int]]) -> int:
    """Count pixels of middle grey whose neighbours have nearly their value."""
    top = 65535 if counts[-1][0] > 255 else 255
    if not any(top / 8 < value < top * 7 / 8 for value, _ in counts):
        return 0
    kernel = np.ones((3, 3), np.uint8)
    least, most = cv2.erode(grey, kernel), cv2.dilate(grey, kernel)
    return int(((most - least <= top // 32) & (least > top / 8) & (most < top * 7 / 8)).sum())
