"""Reader of ISIC 2016, part 1: lesion masks, in the challenge's own folders and names.

900 training and 379 test images, each with one mask (Gutman et al., "Skin Lesion Analysis toward Melanoma
Detection", arXiv:1605.01397, 2016). There are no classes, and no lesion is known to occur twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from polymask.data.inspection import MEMORY_DIR, FileMemory
from polymask.data.pairs import Offence, Pair, check_pairs, check_values, match_names, refuse
from polymask.data.records import Record
from polymask.data.truth import MaskFile
from polymask.errors import UserError
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

IMAGE_SUFFIX, MASK_SUFFIX = ".jpg", "_Segmentation.png"
FOLDERS = {
    part: (f"ISBI2016_ISIC_Part1_{part}_Data", f"ISBI2016_ISIC_Part1_{part}_GroundTruth")
    for part in ("Training", "Test")
}
"""Folders of the images and of the masks of each part."""

_NUM_IMAGES = {"Training": 900, "Test": 379}
_SUBSETS = {"Training": None, "Test": "test"}


def read_isic2016(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    verify_pairs: bool = True,
    memory_dir: str | None = MEMORY_DIR,
) -> tuple[list[Record], list[str]]:
    """Read `data_dir/ISBI2016_ISIC_Part1_{Training,Test}_{Data,GroundTruth}`, and verify every pair.

    Args:
        data_dir: Folder of the data set. Without the test folders there are no test records, with a
            logged warning.
        classes: Must be empty.
        allow_absent: Not used: there are no classes that could be absent.
        verify_pairs: Check names, sizes and mask values of all pairs, and stop if any does not fit. False
            leaves out images without mask with a logged note and looks into no file.
        memory_dir: Folder that remembers what the files hold, None to look into all of them at each start.

    Returns:
        One record per image, sorted by id, of unknown class (-1) and its own group, and no classes. The test
        images are prescribed for `test`, the split may place the training images.

    Raises:
        UserError: A training folder is missing or empty, a pair does not fit, or `classes` names any.
    """
    if classes:
        raise UserError(f"data.classes={list(classes)}, but ISIC 2016 has masks only; give data.classes=[].")
    parts: dict[str, list[Pair]] = {}
    offences: list[Offence] = []
    for part in _parts_present(data_dir):
        parts[part], found = _match(data_dir, part)
        offences += found
    if verify_pairs:
        _verify(data_dir, parts, offences, memory_dir)
    elif offences:
        log.warning("image files without partner in %s, which are left out: %d", data_dir, len(offences))
    counts = {part: len(pairs) for part, pairs in parts.items()}
    if counts != _NUM_IMAGES:
        log.info("images in %s: %s; the challenge has %s", data_dir, _listed(counts), _listed(_NUM_IMAGES))
    records = [
        Record(id=id_, image_path=image, truth=MaskFile(mask), label=-1, group=id_, subset=_SUBSETS[part])
        for part, pairs in parts.items()
        for id_, image, mask in pairs
    ]
    return sorted(records, key=lambda record: record.id), []


def _parts_present(root: Path) -> list[str]:
    """Return the parts to read; the training part must be there.

    Raises:
        UserError: A training folder, or the whole data set, is missing.
    """
    names = [name for folders in FOLDERS.values() for name in folders]
    layout = f"the challenge's folders {', '.join(names)}"
    if not root.is_dir():
        raise UserError(f"data.data_dir={str(root)!r} is not a folder. Put {layout} there.")
    missing = [name for name in names if not (root / name).is_dir()]
    if set(missing) & set(FOLDERS["Training"]):
        raise UserError(f"{root} has no folder {' and no '.join(missing)}. Put {layout} there.")
    if missing:
        log.warning("%s has no folder %s: the test subset is empty.", root, " and no ".join(missing))
        return ["Training"]
    return list(FOLDERS)


def _match(root: Path, part: str) -> tuple[list[Pair], list[Offence]]:
    images, masks = (root / name for name in FOLDERS[part])
    pairs, offences = match_names(images, masks, image_suffix=IMAGE_SUFFIX, mask_suffix=MASK_SUFFIX)
    if not pairs and not offences:
        raise UserError(
            f"{images} and {masks} are empty. Put ISIC_*{IMAGE_SUFFIX} and ISIC_*{MASK_SUFFIX} there."
        )
    return pairs, offences


def _verify(
    root: Path, parts: dict[str, list[Pair]], offences: list[Offence], memory_dir: str | None
) -> None:
    """Stop when the files of a pair do not fit together, or an image is in both parts."""
    pairs = [pair for found in parts.values() for pair in found]
    twice = [id_ for id_, count in Counter(pair.id for pair in pairs).items() if count > 1]
    leaks = [Offence(id_, "both in the training and in the test data") for id_ in twice]
    memory = FileMemory(resolve(memory_dir) if memory_dir else None, root)
    refuse(
        [*offences, *leaks, *check_pairs(pairs, memory), *check_values(pairs, memory)],
        pairs,
        where=root,
        remedy="Mend or remove these files; data.reader.verify_pairs=false uses the pairs as they are.",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {count}" for part, count in counts.items())
