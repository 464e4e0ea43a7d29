"""Results under the names of the Cell Tracking Challenge, so that its own programs run on them as they are.

```
01_RES/mask000.tif …        numbers of the objects found, one file per frame: 16 bits, a page per slice
01_RES/res_track.txt        a line per object: number, first frame, last frame, parent (0: none)
01_GT/SEG/man_seg000.tif …  links to the truth; man_seg_000_012.tif where only some slices are annotated
01_GT/TRA/man_track000.tif …, man_track.txt
```

Objects are not followed from frame to frame, so each is a track of its own, of one frame; therefore no number
stands in two frames of a sequence.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polymask.data.stacks import open_stack
from polymask.families.volumes.pages import write_pages
from polymask.utils.files import write_text

log = logging.getLogger(__name__)

TRACKS_NAME = "res_track.txt"
MOST_OBJECTS = np.iinfo(np.uint16).max
_FRAME = re.compile(r"(.+)/t(\d{3,})", re.ASCII)
_RESULTS, _TRUTH = "_RES", "_GT"


class Track(NamedTuple):
    """One line of `res_track.txt` or `man_track.txt`; frames count from 0, parent 0 is none."""

    label: int
    begin: int
    end: int
    parent: int = 0


def mask_path(name: str) -> Path:
    """Return where the objects of a volume are written, below the folder of results.

    Args:
        name: Its path without suffix, with slashes: `01/t000` becomes `01_RES/mask000.tif`, any other `cells`
            becomes `label_maps/cells.tif`.
    """
    frame = _FRAME.fullmatch(name)
    if frame is None:
        return Path("label_maps", f"{name}.tif")
    return Path(f"{frame[1]}{_RESULTS}", f"mask{frame[2]}.tif")


def sequence_of(name: str) -> str | None:
    """Return the sequence that a volume belongs to by its name: `01` for `01/t000`, None for other names."""
    frame = _FRAME.fullmatch(name)
    return None if frame is None else frame[1]


def number_of(name: str) -> int:
    """Return the number of a frame by its name, 0 for `01/t000`."""
    return int(_digits(name))


def frames_from_zero(ids: Iterable[str]) -> dict[str, str]:
    """Return the name of each frame among those given: its id, if no frame of its sequence is missing before.

    The official programs count files, not names: of a sequence that was tested in part, the first frame is
    the first one tested.

    Args:
        ids: Ids of frames, such as `01/t024`; ids of other shape keep their names.

    Returns:
        Id to name, `01/t000` for the first one of a sequence.
    """
    names, counts = {}, dict[str, int]()
    for id_ in sorted(ids):
        frame = _FRAME.fullmatch(id_)
        if frame is None:
            names[id_] = id_
            continue
        number = counts.get(frame[1], 0)
        counts[frame[1]] = number + 1
        names[id_] = f"{frame[1]}/t{number:0{len(frame[2])}d}"
    return names


def write_masks(path: Path, labels: Iterable[np.ndarray], *, offset: int = 0) -> None:
    """Write the objects of a volume: TIFF of 16 bits, a page per slice.

    Args:
        path: The file.
        labels: Z slices (H, W) of numbers, 0 is background.
        offset: Added to every number.
    """
    write_pages(path, (_raised(page, offset) for page in labels))


def _raised(page: np.ndarray, offset: int) -> np.ndarray:
    return np.where(page > 0, page.astype(np.int32) + offset, 0).astype(np.uint16)


def write_tracks(path: Path, frames: Iterable[tuple[int, Iterable[int]]]) -> None:
    """Write `res_track.txt`: every object of every frame is a track of one frame.

    Args:
        path: The file.
        frames: Number of each frame, and the numbers in its mask.
    """
    _write_track_file(path, [Track(number, frame, frame) for frame, numbers in frames for number in numbers])


def number_apart(folder: Path, counts: Sequence[int]) -> list[int]:
    """Make the numbers in the masks of a sequence different from frame to frame, and write `res_track.txt`.

    Masks whose numbers are right already stay as they are. Where there are more objects than numbers, the
    numbers of every frame begin at 1, and no tracks can be written.

    Args:
        folder: Folder such as `01_RES`, with a file of `write_masks` per frame.
        counts: Objects of each frame, in the order of the files.

    Returns:
        What the numbers of each frame are larger by than 1 to its number of objects.
    """
    paths = sorted(folder.glob("mask*.tif"))
    offsets = [0, *np.cumsum(counts).tolist()][:-1]
    tracks = folder / TRACKS_NAME
    if sum(counts) > MOST_OBJECTS:
        warn_of_many(folder.name)
        tracks.unlink(missing_ok=True)
        offsets = [0] * len(paths)
    for path, offset in zip(paths, offsets, strict=True):
        _renumber(path, offset)
    if sum(counts) <= MOST_OBJECTS:
        frames = zip(paths, offsets, counts, strict=True)
        write_tracks(
            tracks,
            (
                (int(path.stem.removeprefix("mask")), range(at + 1, at + count + 1))
                for path, at, count in frames
            ),
        )
    return offsets


def warn_of_many(sequence: str) -> None:
    """Say that the numbers of a sequence begin anew in every frame."""
    log.warning(
        "%s: more objects in all frames than 16 bits can number; their numbers begin anew, without %s.",
        sequence,
        TRACKS_NAME,
    )


def _renumber(path: Path, offset: int) -> None:
    """Write a mask anew whose smallest number is not `offset` + 1.

    The first object begins in the first slice that has any, so that most masks are known by one page.
    """
    stack = open_stack(path, what="mask")
    smallest = next((int(page[page > 0].min()) for page in stack.pages() if page.any()), offset + 1)
    if smallest != offset + 1:
        write_masks(path, stack.pages(), offset=offset + 1 - smallest)


def link_truth(folder: Path, name: str, files: Iterable[Path]) -> None:
    """Link the annotated volume or slices of one frame into `01_GT/SEG` of a folder of results.

    Args:
        folder: Folder of the results.
        name: Name of the frame among the results, see `frames_from_zero`.
        files: Its `man_seg000.tif`, or its `man_seg_000_012.tif` and so on.
    """
    frame = _FRAME.fullmatch(name)
    assert frame is not None
    for file in files:
        official = re.sub(r"(man_seg_?)\d+", rf"\g<1>{frame[2]}", file.stem, count=1)
        _link(file, folder / f"{frame[1]}{_TRUTH}" / "SEG" / f"{official}.tif")


class TrueFrame(NamedTuple):
    """What is known of the truth of a tested frame.

    Attributes:
        id: Its id in the data set.
        name: Its name among the results.
        files: Its files of annotation, one where the volume is annotated whole.
        labels: (N,) the labels in them.
    """

    id: str
    name: str
    files: Sequence[Path]
    labels: np.ndarray


def link_tracks(folder: Path, sequence: str, frames: Sequence[TrueFrame]) -> None:
    """Fill `01_GT/TRA` of a folder of results, without which the official programs measure nothing.

    With the markers of the data set where it has some, else with the annotated volumes themselves; where only
    slices are annotated and there are no markers, nothing is written.

    Args:
        folder: Folder of the results.
        sequence: Such as `01`.
        frames: Its tested frames in order.
    """
    markers = _markers(frames)
    if markers is not None:
        files, tracks = markers
    elif all(len(frame.files) == 1 and _is_whole(frame.files[0]) for frame in frames):
        files = [frame.files[0] for frame in frames]
        tracks = _tracks_of([frame.labels.tolist() for frame in frames])
    else:
        return
    target = folder / f"{sequence}{_TRUTH}" / "TRA"
    for file, frame in zip(files, frames, strict=True):
        _link(file, target / f"man_track{_digits(frame.name)}.tif")
    _write_track_file(target / "man_track.txt", tracks)


def _markers(frames: Sequence[TrueFrame]) -> tuple[list[Path], list[Track]] | None:
    """Return the markers of the data set and its tracks as far as they lie in the tested frames."""
    sequence = Path(frames[0].id).parent.name
    folder = frames[0].files[0].parents[2] / f"{sequence}{_TRUTH}" / "TRA"
    files = [folder / f"man_track{_digits(frame.id)}.tif" for frame in frames]
    try:
        table = np.loadtxt(folder / "man_track.txt", dtype=np.int64, ndmin=2)
    except (OSError, ValueError):
        return None
    if table.shape[1] != len(Track._fields) or not all(file.is_file() for file in files):
        return None
    return files, _tested_part(table.tolist(), [number_of(frame.id) for frame in frames])


def _tested_part(table: Iterable[Sequence[int]], numbers: Sequence[int]) -> list[Track]:
    """Return tracks with frames counted among the tested ones, `numbers` in order; others are left out."""
    kept = {}
    for label, begin, end, parent in table:
        places = [place for place, number in enumerate(numbers) if begin <= number <= end]
        if places:
            kept[label] = Track(label, places[0], places[-1], parent)
    return [track if track.parent in kept else track._replace(parent=0) for track in sorted(kept.values())]


def _tracks_of(labels: Sequence[Sequence[int]]) -> list[Track]:
    """Return a track for each label, from the first to the last of the frames that show it."""
    tracks: dict[int, Track] = {}
    for place, present in enumerate(labels):
        for label in present:
            tracks[label] = Track(label, tracks[label].begin if label in tracks else place, place)
    return sorted(tracks.values())


def _digits(name: str) -> str:
    return name.rpartition("/t")[2]


def _is_whole(file: Path) -> bool:
    return re.fullmatch(r"man_seg\d+", file.stem) is not None


def _write_track_file(path: Path, tracks: Iterable[Track]) -> None:
    write_text(path, "".join(" ".join(map(str, track)) + "\n" for track in tracks))


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the disk has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
