"""A demo data set of volumes made by code: drawn nuclei in the folders of the Cell Tracking Challenge.

It lets every command run without a download. No cell is shown; a README beside the files says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from polymask.data.demo.nuclei import Shape, film
from polymask.data.demo.staging import write_once
from polymask.data.records import Record
from polymask.data.sources.ctc import read_ctc
from polymask.errors import UserError, whole_number

_LEAST = (8, 32, 32)
_README = """These volumes are SYNTHETIC. A program drew them; no cell is shown, and nothing learned from them
holds for a microscope. They exist so that training, testing and inference can be tried without a download.

The layout is that of the Cell Tracking Challenge: 01/t000.tif, 01_GT/SEG/man_seg000.tif, 01_GT/TRA, ….

{settings}
"""


def read_ctc_demo(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    num_sequences: int = 2,
    num_frames: int = 10,
    num_objects: int = 12,
    shape: Sequence[int] = (24, 96, 96),
    touching: bool = True,
    seed: int = 0,
    split: str = "blocks",
    num_folds: int | None = None,
) -> tuple[list[Record], list[str]]:
    """Write the demo data set unless it is there, then read it as `read_ctc` does.

    Args:
        data_dir: Folder of the demo data set; it need not exist.
        classes: As for `read_ctc`.
        allow_absent: As for `read_ctc`.
        num_sequences: Sequences 01, 02, …, at least 1.
        num_frames: Volumes of each, at least 1.
        num_objects: Nuclei in each, fewer where there is no room.
        shape: (Z, H, W) in voxels, at least (8, 32, 32).
        touching: Whether nuclei lie against one another, which makes it hard to tell them apart.
        seed: Decides everything that is drawn, at least 0.
        split: As for `read_ctc`.
        num_folds: As for `read_ctc`.

    Returns:
        One record per volume, and the name of the class.

    Raises:
        UserError: An argument is out of range, `data_dir` holds something else or a demo of other arguments.
    """
    size = _checked(shape)
    for name, value, least in (
        ("num_sequences", num_sequences, 1),
        ("num_frames", num_frames, 1),
        ("num_objects", num_objects, 1),
        ("seed", seed, 0),
    ):
        whole_number(f"data.reader.{name}", value, least=least)
    settings = (
        f"num_sequences={num_sequences}, num_frames={num_frames}, num_objects={num_objects}, "
        f"shape={list(size)}, touching={touching}, seed={seed}"
    )

    def write(folder: Path) -> None:
        for number in range(1, num_sequences + 1):
            frames = film(size, num_objects, num_frames, (seed, number), touching=touching)
            _write_sequence(folder, f"{number:02}", frames)

    write_once(data_dir, write, readme=_README, settings=settings, part="01")
    return read_ctc(data_dir, classes=classes, allow_absent=allow_absent, split=split, num_folds=num_folds)


def _checked(shape: Sequence[int]) -> Shape:
    if len(shape) != 3 or any(side < least for side, least in zip(shape, _LEAST, strict=True)):
        raise UserError(
            f"data.reader.shape={list(shape)} is not valid; give [z, y, x], at least {list(_LEAST)}."
        )
    z, y, x = (whole_number("data.reader.shape", side, least=1) for side in shape)
    return z, y, x


def _write_sequence(folder: Path, name: str, frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write volumes, labels, and the course of each nucleus: all are there from first to last frame."""
    places = folder / name, folder / f"{name}_GT" / "SEG", folder / f"{name}_GT" / "TRA"
    for place in places:
        place.mkdir(parents=True)
    last, numbers = 0, np.zeros(0, int)
    for last, (picture, labels) in enumerate(frames):
        numbers = np.union1d(numbers, np.unique(labels[labels > 0]))
        _save(places[0] / f"t{last:03}.tif", picture)
        _save(places[1] / f"man_seg{last:03}.tif", labels)
        _save(places[2] / f"man_track{last:03}.tif", labels)
    lines = [f"{number} 0 {last} 0\n" for number in numbers.tolist()]
    (places[2] / "man_track.txt").write_text("".join(lines), encoding="utf-8")


def _save(path: Path, volume: np.ndarray) -> None:
    # Not cv2.imwritemulti, which answers a full disk with False instead of an error.
    deflate = [cv2.IMWRITE_TIFF_COMPRESSION, 8]
    path.write_bytes(cv2.imencodemulti(path.suffix, list(volume), deflate)[1].tobytes())
