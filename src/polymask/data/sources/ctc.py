"""Reader of volumes in the folders of the Cell Tracking Challenge.

```
01/t000.tif t001.tif …           one TIFF per time point, one page per slice
01_GT/SEG/man_seg000.tif         gold truth: all slices labelled, or
01_GT/SEG/man_seg_000_012.tif    slice 12 of time point 0
01_ST/SEG/man_seg000.tif         silver truth, made by programs
```
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polymask.data.images import find_files
from polymask.data.records import Record
from polymask.data.stacks import STACK_SUFFIXES
from polymask.data.tables import some
from polymask.data.volume_truth import VolumeTruth
from polymask.errors import UserError, choose, nearest
from polymask.utils.names import check_inside
from polymask.utils.text import same_name

log = logging.getLogger(__name__)

TRUTHS = {"gold": "GT", "silver": "ST"}
SPLITS = ("blocks", "sequences")
"""What is prescribed: `blocks` the subset of every frame, see `prescribe`; `sequences` nothing."""
CLASS = "cell"

_LAYOUT = "01/t000.tif with 01_GT/SEG/man_seg000.tif or man_seg_000_012.tif (slice 12 alone)"
_SEQUENCE = re.compile(r"\d\d")
_FRAME = re.compile(r"t(\d+)")
_VOLUME_TRUTH = re.compile(r"man_seg(\d+)")
_SLICE_TRUTH = re.compile(r"man_seg_(\d+)_(\d+)")
_DIGITS = (3, 4)
_VAL_SHARE = 0.2  # of the frames of a sequence, the last ones


def read_ctc(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    truth: str = "gold",
    sequences: Sequence[str] | None = None,
    split: str = "blocks",
    num_folds: int | None = None,
) -> tuple[list[Record], list[str]]:
    """Read the sequences below `data_dir`, also those of several data sets in folders of their own.

    A record is a frame, a volume. Frames without any truth are left out.

    Args:
        data_dir: Folder of the data set, or of several.
        classes: Empty, or one name for the only class instead of `cell`.
        allow_absent: Of no effect: there is one class, which every data set has.
        truth: `gold` (made by people) or `silver`.
        sequences: Which to read, such as `[01]` or `[Fluo-N3DH-CE/01]`; None for all.
        split: `blocks` prescribes the subset of every frame, see `prescribe`; `sequences` leaves whole
            sequences to be drawn.
        num_folds: Where a cross-validation is drawn, whole sequences are, whatever `split` says.

    Returns:
        One record per annotated frame, sorted by id (`01/t000`), and the name of the class.

    Raises:
        UserError: There is no sequence, one has gaps or no truth, numbers have other digits, truth is of a
            frame that is not there, or several classes are asked for.
    """
    choose("data.reader.truth", truth, TRUTHS)
    choose("data.reader.split", split, SPLITS)
    names = one_class(classes)
    found = _chosen(_find_sequences(data_dir), sequences, data_dir)
    records = {name: _read_sequence(data_dir, name, truth) for name in found}
    check_inside((record.id for frames in records.values() for record in frames), str(data_dir))
    if num_folds is None and split == "blocks":
        return prescribe(records), names
    return [record for frames in records.values() for record in frames], names


def one_class(classes: Sequence[str]) -> list[str]:
    """Return the name of the only class.

    Raises:
        UserError: There are several.
    """
    names = [str(name) for name in classes] or [CLASS]
    if len(names) > 1:
        raise UserError(
            f"data.classes={names}, but volumes have objects of one class; give one name, such as [{CLASS}]."
        )
    return names


def prescribe(records: dict[str, list[Record]]) -> list[Record]:
    """Return records with their subsets: blocks of frames, since neighbouring frames show the same cells.

    Of each data set the last sequence is test, and of the others the last fifth of the frames is val; the
    only sequence there is has its last fifth as test and the fifth before as val. Each frame is a group of
    its own then, so that intervals are over frames: of one sequence there could be none.

    Args:
        records: The frames of each sequence, in their order; both sorted by name.
    """
    tested = _test_sequences(list(records))
    result = []
    for name, frames in records.items():
        block = max(1, round(_VAL_SHARE * len(frames)))
        num_test = len(frames) if name in tested else block if len(records) == 1 and len(frames) > 2 else 0
        num_val = block if len(frames) - num_test > 1 else 0
        num_train = len(frames) - num_test - num_val
        subsets = ["train"] * num_train + ["val"] * num_val + ["test"] * num_test
        result += [_with_subset(frame, subset) for frame, subset in zip(frames, subsets, strict=True)]
    return result


def _with_subset(record: Record, subset: str) -> Record:
    return replace(record, subset=subset, group=record.id)


def _test_sequences(names: Sequence[str]) -> set[str]:
    """Return the last sequence of each data set that has several; if none has, the last of all."""
    by_set: dict[str, list[str]] = {}
    for name in names:
        by_set.setdefault(name.rpartition("/")[0], []).append(name)
    last = {members[-1] for members in by_set.values() if len(members) > 1}
    return last or set(names[-1:] if len(names) > 1 else [])


def _find_sequences(data_dir: Path) -> list[str]:
    """Return the folders with volumes, relative to `data_dir`, sorted.

    Raises:
        UserError: There is none.
    """
    found = []
    for parent, folders, _ in os.walk(data_dir):
        for name in folders:
            if _SEQUENCE.fullmatch(name) and any(Path(parent, name).glob("*.tif*")):
                found.append(same_name(Path(parent, name).relative_to(data_dir).as_posix()))
        # Nothing lies below the folders of a sequence.
        folders[:] = [name for name in folders if name[0] != "." and not re.match(r"\d\d(_|$)", name)]
    if not found:
        above = f" Name the folder above it, data.data_dir={data_dir.parent}." * bool(
            _SEQUENCE.fullmatch(data_dir.name)
        )
        raise UserError(
            f"data.data_dir={data_dir} holds no sequence of volumes; the layout is {_LAYOUT}.{above}"
        )
    return sorted(found)


def _chosen(found: list[str], wanted: Sequence[str] | None, data_dir: Path) -> list[str]:
    if wanted is None:
        return found
    names = [str(name) for name in wanted]
    for name in names:
        if name not in found:
            raise UserError(
                f"data.reader.sequences={names}: {data_dir} has no sequence {name!r}.{nearest(name, found)} "
                f"It has {some(found)}."
            )
    if not names:
        raise UserError(f"data.reader.sequences=[] names none; {data_dir} has {some(found)}, null means all.")
    return sorted(set(names))


def _read_sequence(data_dir: Path, name: str, truth: str) -> list[Record]:
    frames = _Numbered.of(data_dir / name)
    truths = _find_truth(data_dir, name, truth, frames)
    without = [frames.files[number].name for number in frames.files if number not in truths]
    if without:
        log.info(
            "%s: %d of %d frames have no %s truth and are left out: %s",
            name, len(without), len(frames.files), truth, some(without),
        )  # fmt: skip
    return [
        Record(
            id=f"{name}/{path.stem}",
            image_path=path,
            truth=truths[number],
            label=0,
            group=name,
        )
        for number, path in frames.files.items()
        if number in truths
    ]


@dataclass(frozen=True)
class _Numbered:
    """The volumes of a sequence by number, sorted, and the digits of their numbers."""

    files: dict[int, Path]
    digits: int

    @property
    def names(self) -> str:
        """Return the first and the last name, for messages."""
        return " to ".join(
            dict.fromkeys((self.files[min(self.files)].name, self.files[max(self.files)].name))
        )

    @classmethod
    def of(cls, folder: Path) -> _Numbered:
        """Find them.

        Raises:
            UserError: Numbers have other digits than 3 or 4, or different ones, or some are missing.
        """
        matches = [(match[1], path) for match, path in _matching(folder, _FRAME)]
        if not matches:
            raise UserError(
                f"{folder} holds no frames t000.tif, t001.tif, …, but other files such as "
                f"{next(folder.glob('*.tif*')).name}; rename them."
            )
        digits = len(matches[0][0])
        for text, path in matches:
            if len(text) not in _DIGITS or len(text) != digits:
                first = matches[0][1].name
                beside = "" if path.name == first else f" beside {first}"
                raise UserError(
                    f"{folder} has {path.name}{beside}; all numbers of a sequence must "
                    "have 3 digits, or all 4: t000.tif, t001.tif, …. Rename the files."
                )
        files = {int(text): path for text, path in matches}
        missing = [
            f"t{number:0{digits}}.tif" for number in range(min(files), max(files)) if number not in files
        ]
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} frames between {matches[0][1].name} and "
                f"{matches[-1][1].name}: {some(missing)}. Add them, or move what comes after the gap "
                "into a sequence of its own."
            )
        return cls(files, digits)


def _matching(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], Path]]:
    for stem, path in find_files(folder, STACK_SUFFIXES).items():
        match = pattern.fullmatch(stem)
        if match is not None:
            yield match, path


def _find_truth(data_dir: Path, name: str, truth: str, frames: _Numbered) -> dict[int, VolumeTruth]:
    """Return the truth of each frame that has one.

    Raises:
        UserError: There is none, or numbers do not fit those of the frames.
    """
    folder = data_dir / f"{name}_{TRUTHS[truth]}" / "SEG"
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing, the {truth} truth of sequence {name}.{_other(data_dir, name, truth)}"
        )
    volumes = list(_matching(folder, _VOLUME_TRUTH))
    slices = list(_matching(folder, _SLICE_TRUTH))
    if not volumes and not slices:
        raise UserError(
            f"{folder} holds no truth; names are man_seg000.tif (all slices of frame 0) or "
            "man_seg_000_012.tif (slice 12 alone)."
        )
    for match, path in [*volumes, *slices]:
        if len(match[1]) != frames.digits or int(match[1]) not in frames.files:
            raise UserError(
                f"{path} is the truth of no frame of sequence {name}: {match[1]} is none of the numbers of "
                f"{frames.names}. Add the frame, or rename the file."
            )
    found = {int(match[1]): VolumeTruth(path=path) for match, path in volumes}
    places: dict[int, list[tuple[int, Path]]] = {}
    for match, path in slices:
        if int(match[1]) in found:
            raise UserError(f"{path} and {found[int(match[1])].path.name} are truth of one frame; keep one.")
        places.setdefault(int(match[1]), []).append((int(match[2]), path))
    return found | {
        number: VolumeTruth(path=folder, slices=tuple(sorted(pairs))) for number, pairs in places.items()
    }


def _other(data_dir: Path, name: str, truth: str) -> str:
    """Return what to do where the other truth is there."""
    for other, end in TRUTHS.items():
        if other != truth and (data_dir / f"{name}_{end}" / "SEG").is_dir():
            return f" There is {other} truth: data.reader.truth={other}."
    return f" The layout is {_LAYOUT}."
