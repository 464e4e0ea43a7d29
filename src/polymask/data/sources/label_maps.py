"""Reader of label maps: `images/{id}.*` beside `labels/{id}.png`, one integer per object.

Instead of one label map an image may have a folder `labels/{id}/` of binary PNGs, one per object, which
may overlap.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polymask.data.cache import file_key, file_status
from polymask.data.decoding import grey_and_alpha, read_values
from polymask.data.images import IMAGE_SUFFIXES, find_files
from polymask.data.mask_values import NONZERO
from polymask.data.pieces import check_pieces, separate
from polymask.data.records import Record
from polymask.data.sizes import image_size as size_of_image
from polymask.data.sizes import mask_size
from polymask.data.splits.groups import read_groups
from polymask.data.tables import nearest_files, some
from polymask.data.truth import ObjectTruth
from polymask.errors import UserError, choose
from polymask.structures.layers import Layers, check_size, number_objects, stack_masks
from polymask.utils.text import same_name

log = logging.getLogger(__name__)

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
SPLITS = ("auto", "values", "components")
"""What one object is: all pixels of one value, or each connected piece of them; `auto` are values, unless
these seem to be something else."""
_LAYOUT = "images/{id}.png or .jpg or .tif, and labels/{id}.png or .tif or labels/{id}/*.png"


@dataclass(frozen=True, kw_only=True)
class LabelMap(ObjectTruth):
    """The objects of one image in a label map, or in a folder of binary masks (`path`); all are of class 0.

    Attributes:
        components: Whether each connected piece of a number is an object of its own.
    """

    components: bool = False

    def read_objects(self, image_size: tuple[int, int] | None = None) -> Layers:
        """Decode the objects, see `Truth.read_objects`."""
        if self.path.is_dir():
            objects = self._read_folder(image_size or size_of_image(self.image_path))
        else:
            label_map = read_label_map(self.path)
            check_size(self.path, label_map.shape, self.image_path, image_size)
            objects = number_objects(label_map)
        return separate(objects) if self.components else objects

    def check(self, image_size: tuple[int, int]) -> None:
        """Look at the headers of the masks, which must have the size of the image and one page."""
        is_folder = self.path.is_dir()
        for path in _mask_files(self.path) if is_folder else [self.path]:
            own = mask_size(path)
            if own is None:
                own = (_read_mask if is_folder else read_label_map)(path).shape[:2]
            check_size(path, own, self.image_path, image_size)

    def fingerprint(self) -> str:
        """Return names and sizes of the files."""
        if not self.path.is_dir():
            return f"{file_status(self.path).st_size}{self._suffix}"
        masks = ",".join(f"{path.name} {file_status(path).st_size}" for path in _mask_files(self.path))
        return f"{masks}{self._suffix}"

    def content_key(self) -> str:
        """Return a text that changes when one of the files does, or what an object is."""
        if not self.path.is_dir():
            return f"{file_key(self.path)}|{NONZERO.key()}{self._suffix}"
        # A folder's own time tells of added and removed files, not of changed ones.
        masks = "|".join(file_key(path) for path in _mask_files(self.path))
        return f"{hashlib.sha256(masks.encode()).hexdigest()}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "|components" if self.components else ""

    def _read_folder(self, size: tuple[int, int]) -> Layers:
        masks = []
        files = _mask_files(self.path)
        for path in files:
            mask = _read_mask(path)
            check_size(path, mask.shape, self.image_path, size)
            if mask.any():
                masks.append(mask)
        if len(masks) < len(files):
            log.warning("%s: %d of %d masks are empty.", self.path, len(files) - len(masks), len(files))
        return stack_masks(masks, [0] * len(masks), [False] * len(masks), size)


def read_label_maps(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    split: str = "auto",
    group_pattern: str | None = None,
    group_table: str | None = None,
    group_column: str | None = None,
) -> tuple[list[Record], list[str]]:
    """Read `data_dir/images` and `data_dir/labels`; at most some label maps are decoded.

    Since not every label map is looked into, every image has the label 0, also one without objects.

    Args:
        data_dir: Folder of the data set.
        classes: Empty, or one name for the only class instead of `object`.
        allow_absent: Of no effect: there is one class, which every data set has.
        split: What one object is: all pixels of one value (`values`), or each 8-connected piece of them
            (`components`). `auto` means values, but looks at some maps, and refuses those whose few values
            lie in many pieces: masks of foreground and background, and maps of classes.
        group_pattern: Regular expression whose first group (or whole match) in the file name is the
            group, so that the tiles of one photograph stay together.
        group_table: CSV file, relative to `data_dir`, with the columns `id` and `group_column`.
        group_column: Column of the group in `group_table`, None for `group`.

    Returns:
        One record per image, sorted by id, and the names of the classes.

    Raises:
        UserError: A folder or label map is missing, several classes are asked for, the groups' rule does
            not fit, or values seem to stand for many objects each.
    """
    choose("data.reader.split", split, SPLITS)
    names = [str(name) for name in classes] or ["object"]
    if len(names) > 1:
        raise UserError(
            f"data.classes={names}, but label maps have objects of one class; give one name, or use COCO "
            "annotations (data=coco) for several."
        )
    if group_column is not None and group_table is None:
        raise UserError(
            f"data.reader.group_column={group_column!r} needs a table: set data.reader.group_table."
        )
    for folder in (data_dir / "images", data_dir / "labels"):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Label maps are read from {_LAYOUT}.")
    images = find_files(data_dir / "images", IMAGE_SUFFIXES)
    labels = _find_labels(data_dir / "labels", images)
    groups = read_groups(
        {id_: path.name for id_, path in images.items()},
        data_dir,
        pattern=group_pattern,
        table=group_table,
        column=group_column,
    )
    records = [
        Record(
            id=id_,
            image_path=images[id_],
            truth=LabelMap(path=labels[id_], image_path=images[id_], components=split == "components"),
            label=0,
            group=groups[id_],
        )
        for id_ in sorted(images)
    ]
    if split == "auto":
        check_pieces(
            records,
            remedy="data.reader.split=components takes each connected piece as an object (touching ones are "
            "one), data.reader.split=values all pixels of a number.",
        )
    return records, names


def read_label_map(path: Path) -> np.ndarray:
    """Decode a label map.

    Returns:
        (H, W) of some integer type, 0 = background, one positive number per object.

    Raises:
        UserError: The file is missing or damaged, has colours, or values that are no object numbers.
    """
    values = read_values(path, "label map")
    if values.ndim == 3:
        _refuse_opacity(values, path, "label map")
        values = _without_colours(values, path)
    if values.dtype.kind == "f" and np.array_equal(values, np.round(values)):
        values = values.astype(np.int64)  # as some programs save numbers in TIFF
    if values.dtype.kind not in "iu" or values.min() < 0:
        raise UserError(
            f"label map {path} has values such as {values.min():g}; each pixel must be 0 (background) or the "
            "positive whole number of its object."
        )
    return values


def _without_colours(values: np.ndarray, path: Path) -> np.ndarray:
    """Return the channel that all channels repeat."""
    colours = values[..., :3]  # a fourth channel is opacity
    if (colours != colours[..., :1]).any():
        raise UserError(
            f"label map {path} has colours; it must have one channel with one whole number per object."
        )
    return colours[..., 0]


def _refuse_opacity(values: np.ndarray, path: Path, what: str) -> None:
    """Stop where only the alpha channel tells places apart: the greys would be one object everywhere."""
    grey, alpha = grey_and_alpha(values)
    if alpha is not None and np.ptp(alpha) and not np.ptp(grey):
        raise UserError(
            f"{what} {path} has one colour, and what it shows in the alpha channel; save it as greys without "
            "an alpha channel."
        )


def _read_mask(path: Path) -> np.ndarray:
    """Return the (H, W) bool mask of one object: what is above half of the file's largest value."""
    values = read_values(path, "mask")
    _refuse_opacity(values, path, "mask")
    grey, _ = grey_and_alpha(values)
    return grey > grey.max() / 2


def _find_labels(folder: Path, images: dict[str, Path]) -> dict[str, Path]:
    """Return the label map, or the folder of masks, of each image."""
    with os.scandir(folder) as entries:
        folders = {
            same_name(entry.name): folder / entry.name
            for entry in entries
            if entry.is_dir() and entry.name[0] != "."
        }
    labels = folders | find_files(folder, LABEL_SUFFIXES)
    missing = sorted(set(images) - set(labels))
    if missing or not images:
        found = nearest_files(missing, folder)
        raise UserError(
            f"{len(missing)} of {len(images)} images of {folder.parent} have no labels in {folder.name}/: "
            f"{some(missing) or 'there are no images'}; {found} Expected are {_LAYOUT}; an image without "
            "objects has a label map of zeros or an empty folder."
        )
    unused = sorted(set(labels) - set(images))
    if unused:
        log.warning("%d label maps in %s have no image: %s", len(unused), folder, some(unused))
    return labels


def _mask_files(folder: Path) -> list[Path]:
    return sorted(find_files(folder, (".png",)).values())
