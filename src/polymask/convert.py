"""From one layout of objects to another: `polymask convert SOURCE TARGET to=coco|label_maps|masks`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from polymask.data.reading import read_ahead
from polymask.data.records import Record
from polymask.data.sizes import image_size
from polymask.data.sources.coco import CROWDS
from polymask.data.sources.layouts import find_format, read_objects
from polymask.data.targets.base import IMAGES, Target
from polymask.data.targets.coco import SEGMENTATIONS, CocoTarget
from polymask.data.targets.label_maps import OVERLAPS, LabelMapTarget
from polymask.data.targets.masks import MaskTarget
from polymask.errors import UserError, choose
from polymask.structures.layers import MOST_NUMBERS, Layers
from polymask.utils.files import report_folder
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

_Builder = Callable[[Path, Sequence[str], DictConfig], Target]

TARGETS: dict[str, _Builder] = {
    "coco": lambda folder, names, cfg: CocoTarget(folder, names, segmentation=cfg.segmentation),
    "label_maps": lambda folder, names, cfg: LabelMapTarget(folder, names, overlaps=cfg.overlaps),
    "masks": lambda folder, names, cfg: MaskTarget(folder, names),
}
_READ_BY = {"coco": "coco", "label_maps": "label_maps", "masks": "lesion_objects"}

_KEYS = {
    "data.reader.split=components": "components=true",
    "data.reader.split=values": "components=false",
    "data.reader.by_diagnosis": "by_diagnosis",
    "data.reader.group_": "group_",
    "data.reader.annotations": "source",
    "data.data_dir": "source",
    "data.classes": "classes",
    "data.crowd": "crowd",
    "data.mask_values": "mask_values",
}
"""Readers speak of the keys of a training; here these are called otherwise."""


@dataclass(frozen=True, kw_only=True)
class ConvertResult:
    """What `convert` returns: where the new data set is, what it holds, and what was not kept."""

    folder: Path
    num_images: int
    num_objects: int
    lost: list[str]
    objective: None = None


def convert(cfg: DictConfig) -> ConvertResult:
    """Write a data set of objects in another layout; the target is whole, or not there.

    Raises:
        UserError: The source cannot be read, the target is not empty, or something could not be kept and
            `allow_loss` does not allow it.
    """
    for key in ("source", "target"):
        if not cfg[key]:
            raise UserError(f"{key}= is needed: polymask convert SOURCE TARGET.")
    source, target = resolve(str(cfg.source)), resolve(str(cfg.target))
    for key, options in {"to": TARGETS, "segmentation": SEGMENTATIONS, "overlaps": OVERLAPS}.items():
        choose(key, cfg[key], options)
    choose("images", cfg.images, IMAGES)
    choose("crowd", cfg.crowd, CROWDS)
    _check_target(target, source)
    format_name = find_format(source, cfg["from"])
    records, names = _read(source, format_name, cfg)
    log.info("%s: %d images, read as %s; classes: %s", source, len(records), format_name, ", ".join(names))
    with report_folder(target) as folder:
        writer = TARGETS[cfg.to](folder, names, cfg)
        num_objects = _write(writer, records)
        lost = writer.losses()
        if lost and not cfg.allow_loss:
            raise UserError(
                f"{cfg.to} cannot keep all of {source}: {'; '.join(lost)}. Nothing was written; "
                "allow_loss=true writes the rest."
            )
        _bring_images(writer, records, cfg.images)
    for sentence in lost:
        log.warning("not kept: %s", sentence)
    _note_subsets(records)
    log.info(
        "%d images with %d objects written to %s as %s; data=%s reads them.",
        len(records),
        num_objects,
        target,
        cfg.to,
        _READ_BY[cfg.to],
    )
    return ConvertResult(folder=target, num_images=len(records), num_objects=num_objects, lost=lost)


def _read(source: Path, format_name: str, cfg: DictConfig) -> tuple[list[Record], list[str]]:
    try:
        return read_objects(
            source,
            format_name,
            classes=list(cfg.classes),
            by_diagnosis=cfg.by_diagnosis,
            components=cfg.components,
            crowd=cfg.crowd,
            mask_values=cfg.mask_values,
            groups={key: cfg[key] for key in ("group_pattern", "group_table", "group_column")},
        )
    except UserError as error:
        text = str(error)
        for key, own in _KEYS.items():
            text = text.replace(key, own)
        raise UserError(text) from error


def _check_target(target: Path, source: Path) -> None:
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"target={str(target)!r} is there already and is not overwritten; give a new folder.")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"target={str(target)!r} lies in the source {source}; give a folder elsewhere.")


def _write(writer: Target, records: Sequence[Record]) -> int:
    """Give the objects of all images to a writer; return their number."""
    num_objects = 0
    for record, objects in zip(records, read_ahead(_decode, records), strict=True):
        writer.add(record, objects)
        num_objects += len(objects.labels)
    writer.finish()
    return num_objects


def _decode(record: Record) -> Layers:
    number = 0 if record.truth is None else record.truth.num_objects or 0
    if number > MOST_NUMBERS:
        raise UserError(
            f"image {record.id} has {number} objects, the most allowed is {MOST_NUMBERS}; cut it into tiles."
        )
    return record.read_objects(image_size(record.image_path))


def _bring_images(writer: Target, records: Sequence[Record], how: str) -> None:
    (writer.folder / "images").mkdir(exist_ok=True)
    for record in records:
        IMAGES[how](record.image_path, writer.image_path(record))


def _note_subsets(records: Sequence[Record]) -> None:
    prescribed = [record.subset for record in records if record.subset is not None]
    if prescribed:
        log.warning(
            "the source prescribes the subset of %d images (%s), which the new layout does not say.",
            len(prescribed),
            ", ".join(sorted(set(prescribed))),
        )
