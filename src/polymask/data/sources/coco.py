"""Reader of COCO annotations: objects as polygons or run lengths, in one JSON file for all images."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from polymask.data.records import Record
from polymask.data.sources.coco_classes import (
    Categories,
    categories_of,
    category_ids,
    choose_classes,
    labels_by_id,
)
from polymask.data.sources.coco_file import CocoFile, encode_annotation, load
from polymask.data.sources.coco_images import file_name, find_images, groups_by_field, sample_ids
from polymask.data.sources.coco_subsets import find_sources
from polymask.data.splits.groups import read_groups
from polymask.data.truth import ObjectTruth
from polymask.errors import UserError, choose
from polymask.structures import rle
from polymask.structures.layers import Layers, check_size, stack_masks

log = logging.getLogger(__name__)

CROWDS = ("ignore", "objects")
"""What crowd regions are: no object but to be ignored, or an object each."""

_MANY = 0.1
_Objects = dict[int | str, list["CocoObject"]]


class CocoObject(NamedTuple):
    """One annotation; `label` is a category id until the classes are known, `counts` are COCO run lengths."""

    label: int
    counts: bytes
    crowd: bool


@dataclass(frozen=True, kw_only=True)
class CocoObjects(ObjectTruth):
    """The objects of one image of a COCO file (`path`).

    Attributes:
        name: Id of the sample, for messages.
        size: (height, width) at which they are rasterised.
        objects: The objects.
    """

    name: str
    size: tuple[int, int]
    objects: tuple[CocoObject, ...]

    def read_objects(self, image_size: tuple[int, int] | None = None) -> Layers:
        """Decode the objects, see `Truth.read_objects`."""
        if image_size is not None:
            self.check(image_size)
        masks = (rle.decode({"size": list(self.size), "counts": item.counts}) for item in self.objects)
        labels, crowd = [item.label for item in self.objects], [item.crowd for item in self.objects]
        return stack_masks(masks, labels, crowd, self.size)

    @property
    def labels(self) -> frozenset[int]:
        """Return the classes of the objects, -1 alone when there is none."""
        return frozenset(item.label for item in self.objects if not item.crowd) or frozenset({-1})

    @property
    def num_objects(self) -> int:
        """Return the number of objects without crowd regions."""
        return sum(not item.crowd for item in self.objects)

    @property
    def foreground(self) -> float:
        """Return the share of the image that objects cover."""
        objects = [{"size": list(self.size), "counts": one.counts} for one in self.objects if not one.crowd]
        return float(rle.union(objects, self.size).mean())

    @property
    def num_crowds(self) -> int:
        """Return the number of crowd regions."""
        return sum(item.crowd for item in self.objects)

    def check(self, image_size: tuple[int, int]) -> None:
        """Compare the size of the image with that in the annotation file."""
        check_size(f"image {self.name} in {self.path}", self.size, self.image_path, image_size)

    def fingerprint(self) -> str:
        """Return a text that is the same for the same annotations."""
        return hashlib.sha256(repr((self.size, self.objects)).encode()).hexdigest()

    def content_key(self) -> str:
        """Return the fingerprint: it tells all of the annotations."""
        return self.fingerprint()


def read_coco(
    data_dir: Path,
    *,
    classes: Sequence[str] = (),
    allow_absent: bool = False,
    annotations: str | None = None,
    files: Mapping[str, str] | None = None,
    crowd: str = "ignore",
    group_pattern: str | None = None,
    group_table: str | None = None,
    group_column: str | None = None,
) -> tuple[list[Record], list[str]]:
    """Read COCO annotations; no image is decoded.

    Left out with a logged count are objects that cover no pixel, objects that have a box only (unless all
    have), and objects of categories that are not in `classes`. Images lie beside the annotation file, in
    `images` there, in `data_dir` or in `data_dir/images`.

    Args:
        data_dir: Folder of the data set.
        classes: Names of the categories to use, in the order of their labels. Empty: all that have
            objects, in the order of their ids. Categories of one name are one class.
        allow_absent: Whether the data set may lack some of `classes`, as when a run is tested on another one.
        annotations: The annotation file, relative to `data_dir`. None: `annotations.json`,
            `_annotations.coco.json`, or the only file in `annotations/`.
        files: Instead, a file for each subset, see `coco_subsets.find_sources`, which also finds those of
            the folders `train`, `valid` and `test`.
        crowd: `ignore` regions that are marked `iscrowd` as COCO does, or take each as one of the `objects`.
        group_pattern: Regular expression whose first group (or whole match) in the file name is the
            group, so that the tiles of one photograph stay together.
        group_table: CSV file, relative to `data_dir`, with the columns `id` and `group_column`.
        group_column: Column of the group in `group_table`, or without table the field of the image entries
            that is the group, such as `extra.name`.

    Returns:
        One record per image, sorted by id, and the names of the classes. An image's id is its file name
        without suffix, with its folders where the names alone repeat; its label is its most frequent class.

    Raises:
        UserError: A file is missing, not COCO or inconsistent, images are missing, a class has another
            name, all objects are crowd regions, or the groups' rule does not fit.
    """
    choose("data.crowd", crowd, CROWDS)
    sources = find_sources(data_dir, annotations, files)
    loaded = [load(source.path) for source in sources]
    ids = sample_ids(loaded, data_dir)
    paths = [
        find_images(file, (file.path.parent, file.path.parent / "images", data_dir, data_dir / "images"))
        for file in loaded
    ]
    groups = _read_groups(
        loaded, ids, data_dir, pattern=group_pattern, table=group_table, column=group_column
    )
    objects = _settle_crowds([_read_objects(file) for file in loaded], crowd, sources[0].path)
    categories = [
        categories_of(file, {item.label for items in own.values() for item in items})
        for file, own in zip(loaded, objects, strict=True)
    ]
    names = choose_classes(categories, classes, allow_absent=allow_absent)
    records = [
        record
        for number, file in enumerate(loaded)
        for record in _records(
            file,
            _with_labels(objects[number], categories[number], names),
            ids=ids[number],
            groups=groups,
            paths=paths[number],
            category_ids=category_ids(categories[number], names),
            subset=sources[number].subset,
        )
    ]
    return sorted(records, key=lambda record: record.id), names


def _records(
    file: CocoFile,
    objects: _Objects,
    *,
    ids: Mapping[int | str, str],
    groups: Mapping[str, str],
    paths: Mapping[int | str, Path],
    category_ids: tuple[int, ...],
    subset: str | None,
) -> list[Record]:
    return [
        Record(
            id=ids[entry["id"]],
            image_path=paths[entry["id"]],
            truth=CocoObjects(
                path=file.path,
                image_path=paths[entry["id"]],
                image_number=entry["id"],
                category_ids=category_ids,
                name=ids[entry["id"]],
                size=(entry["height"], entry["width"]),
                objects=tuple(objects[entry["id"]]),
            ),
            label=_most_frequent(objects[entry["id"]]),
            group=groups[ids[entry["id"]]],
            subset=subset,
        )
        for entry in file.images
    ]


def _read_groups(
    files: Sequence[CocoFile],
    ids: Sequence[Mapping[int | str, str]],
    root: Path,
    *,
    pattern: str | None,
    table: str | None,
    column: str | None,
) -> dict[str, str]:
    """Return the group of each id, over all files."""
    if column is not None and table is None and pattern is None:
        found = [groups_by_field(file, dict(own), column) for file, own in zip(files, ids, strict=True)]
        return {id_: group for groups in found for id_, group in groups.items()}
    names = {
        own[entry["id"]]: PurePosixPath(file_name(entry)).name
        for file, own in zip(files, ids, strict=True)
        for entry in file.images
    }
    return read_groups(names, root, pattern=pattern, table=table, column=column)


def _read_objects(file: CocoFile) -> _Objects:
    """Return the objects per image that have any pixel, their labels still being category ids."""
    size_of = {entry["id"]: (entry["height"], entry["width"]) for entry in file.images}
    objects: _Objects = {key: [] for key in size_of}
    bare = sum(not annotation.get("segmentation") for annotation in file.annotations)
    if bare and bare == len(file.annotations):
        raise UserError(
            f"{file.path} has boxes only; instance segmentation needs polygons or run lengths (segmentation)."
        )
    num_empty = 0
    for annotation in file.annotations:
        if not annotation.get("segmentation"):
            continue
        key = annotation["image_id"]
        source = f"{file.path}: annotation {annotation.get('id')} of image {key}"
        found = encode_annotation(annotation, size_of[key], source)
        if found is None:
            num_empty += 1
            continue
        objects[key].append(
            CocoObject(annotation["category_id"], found["counts"], bool(annotation.get("iscrowd")))
        )
    if num_empty or bare:
        note = "%s: left out %d of %d objects: %d cover no pixel, %d have no mask."
        log.warning(note, file.path, num_empty + bare, len(file.annotations), num_empty, bare)
    return objects


def _settle_crowds(files: Sequence[_Objects], crowd: str, path: Path) -> list[_Objects]:
    """Return the objects per file; of crowd regions objects are made where that is wanted.

    Raises:
        UserError: There is nothing but crowd regions, which are to be ignored.
    """
    items = [item for objects in files for own in objects.values() for item in own]
    num_crowds, total = sum(item.crowd for item in items), len(items)
    if crowd == "objects":
        if num_crowds:
            log.info("%d of %d objects are crowd regions (iscrowd=1), taken as objects.", num_crowds, total)
        return [
            {key: [item._replace(crowd=False) for item in own] for key, own in objects.items()}
            for objects in files
        ]
    if num_crowds and num_crowds == total:
        raise UserError(
            f"all {total} objects of {path} are crowd regions (iscrowd=1), which COCO ignores; some programs "
            "mark every brush mask so: data.crowd=objects takes each region as one object."
        )
    if num_crowds:
        note = (
            "%d of %d objects are crowd regions (iscrowd=1), ignored in training and metrics; "
            "data.crowd=objects takes each as an object."
        )
        # COCO itself has a few in a hundred: many are a matter of how some program exports.
        level = logging.WARNING if num_crowds >= _MANY * total else logging.INFO
        log.log(level, note, num_crowds, total)
    return list(files)


def _with_labels(objects: _Objects, categories: Categories, names: Sequence[str]) -> _Objects:
    """Replace category ids by labels; objects of other categories are left out with a logged count."""
    label_of = labels_by_id(categories, names)
    dropped = Counter(
        item.label for items in objects.values() for item in items if item.label not in label_of
    )
    if dropped:
        name_of = {entry["id"]: entry["name"] for entry in categories.entries}
        counts = ", ".join(f"{name_of[id_]} {count}" for id_, count in dropped.most_common())
        note = "Left out %d objects of categories that are not in use: %s"
        log.info(note, dropped.total(), counts)
    return {
        key: [item._replace(label=label_of[item.label]) for item in items if item.label in label_of]
        for key, items in objects.items()
    }


def _most_frequent(objects: Iterable[CocoObject]) -> int:
    counts = Counter(item.label for item in objects if not item.crowd)
    return min(counts, key=lambda label: (-counts[label], label), default=-1)
