"""Objects from plain masks: whatever layout has masks is read as objects, one per mask or per piece of it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polymask.data.cache import file_key, file_status
from polymask.data.mask_values import NONZERO, MaskRule
from polymask.data.pieces import separate
from polymask.data.records import Reader, Record
from polymask.data.sizes import mask_size
from polymask.data.tables import some
from polymask.data.truth import MaskFile, ObjectTruth
from polymask.errors import UserError
from polymask.structures.layers import Layers, check_size, stack_masks

log = logging.getLogger(__name__)

ONE_CLASS = "lesion"
"""Name of the only class where none is given."""


@dataclass(frozen=True, kw_only=True)
class MaskObjects(ObjectTruth):
    """A mask file (`path`) of which objects are made; an empty mask is an image without objects.

    Attributes:
        label: Class of its objects.
        components: Whether each 8-connected piece is an object, rather than all of the mask.
        rule: What the values of the file mean; the data set decides it from all masks.
    """

    label: int = 0
    components: bool = False
    rule: MaskRule = NONZERO

    @property
    def mask_file(self) -> Path:
        """Return the file."""
        return self.path

    def read_by(self, rule: MaskRule) -> MaskObjects:
        """Return the same file with another rule."""
        return dataclasses.replace(self, rule=rule)

    def read_objects(self, image_size: tuple[int, int] | None = None) -> Layers:
        """Decode the objects, see `Truth.read_objects`."""
        mask = self.rule.read(self.path)
        height, width = mask.shape
        check_size(self.path, (height, width), self.image_path, image_size)
        found = [mask] if mask.any() else []
        objects = stack_masks(found, [self.label] * len(found), [False] * len(found), (height, width))
        return separate(objects) if self.components else objects

    def check(self, image_size: tuple[int, int]) -> None:
        """Look at the header of the mask, which must have the size of the image and one page."""
        own = mask_size(self.path)
        if own is not None:
            check_size(self.path, own, self.image_path, image_size)

    def fingerprint(self) -> str:
        """Return the size of the file in bytes, and what an object is."""
        return f"{file_status(self.path).st_size}{self._suffix}"

    def content_key(self) -> str:
        """Return a text that changes when the file, the rule or what an object is does."""
        return f"{file_key(self.path)}|{self.rule.key()}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f"|class {self.label}{' components' if self.components else ''}"


def read_mask_objects(
    data_dir: Path,
    *,
    masks: Reader,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    by_diagnosis: bool = False,
    components: bool = False,
) -> tuple[list[Record], list[str]]:
    """Read a layout of images with one mask each, and make objects of the masks.

    Images without a mask, and with `by_diagnosis` those of unknown class, are left out with a logged count:
    to take them for images without objects would be wrong.

    Args:
        data_dir: Folder of the data set.
        masks: Reader of the layout; its records have mask files.
        classes: Empty, or one name for the only class instead of `lesion`; with `by_diagnosis` those of the
            layout, in the order of their labels.
        allow_absent: Whether the data set may lack some of `classes`.
        by_diagnosis: Whether the objects of an image are of the image's class, rather than all of one.
        components: Whether each 8-connected piece of a mask is an object, rather than all of the mask.

    Returns:
        The records of `masks`, with objects, and the names of the classes.

    Raises:
        UserError: The layout is not as `masks` says, no image has a mask, or the classes do not fit.
    """
    names = [str(name) for name in classes]
    if not by_diagnosis:
        if len(names) > 1:
            raise UserError(
                f"data.classes={names}, but all masks are of one class; give one name, or set "
                "data.reader.by_diagnosis=true to take the image's class for its objects."
            )
        found, _ = masks(data_dir, classes=[], allow_absent=allow_absent)
        names = names or [ONE_CLASS]
    else:
        if not names:
            raise UserError(
                "data.reader.by_diagnosis=true needs the classes of the images: give them, e.g. "
                "data.classes=[MEL,NV,BKL]."
            )
        found, names = masks(data_dir, classes=names, allow_absent=allow_absent)
    records = _with_mask(found, data_dir)
    if by_diagnosis:
        records = _of_known_class(records)
    return [_with_objects(record, components, by_diagnosis) for record in records], names


def _with_objects(record: Record, components: bool, by_diagnosis: bool) -> Record:
    label = record.label if by_diagnosis else 0
    assert isinstance(record.truth, MaskFile)
    truth = MaskObjects(
        path=record.truth.path, image_path=record.image_path, label=label, components=components
    )
    return dataclasses.replace(record, truth=truth, label=label)


def _with_mask(records: Sequence[Record], data_dir: Path) -> list[Record]:
    kept = [record for record in records if record.truth is not None]
    missing = [record for record in records if record.truth is None]
    if not kept:
        hint = missing[0].mask_hint if missing else ""
        raise UserError(f"none of the {len(records)} images of {data_dir} has a mask. {hint}".rstrip())
    if missing:
        note = "%d of %d images have no mask, so their objects are not known; they are left out: %s"
        log.warning(note, len(missing), len(records), some([record.id for record in missing]))
    return kept


def _of_known_class(records: Sequence[Record]) -> list[Record]:
    kept = [record for record in records if record.label >= 0]
    if len(kept) < len(records):
        note = "Left out %d of %d images: their class is unknown, so that of their objects is, too."
        log.warning(note, len(records) - len(kept), len(records))
    return kept
