"""Reader of COCO annotations: objects as polygons or run lengths, in one JSON file for all images."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from polymask.data.cache import file_status
from polymask.data.coco_file import CocoFile, encode_annotation, find_annotations, load
from polymask.data.coco_images import file_name, find_images, groups_by_field, sample_ids
from polymask.data.groups import read_groups
from polymask.data.images import header_size
from polymask.data.instances import InstanceRecord, Instances, check_size, stack_masks
from polymask.data.tables import some
from polymask.errors import UserError, nearest
from polymask.utils import rle

log = logging.getLogger(__name__)


class CocoObject(NamedTuple):
    """One annotation; `label` is a category id until the classes are known, `counts` are COCO run lengths."""

    label: int
    counts: bytes
    crowd: bool


@dataclass(frozen=True, kw_only=True)
class CocoRecord(InstanceRecord):
    """An image of a COCO file (`mask_path`) and its objects, rasterised at `size` = (height, width)."""

    size: tuple[int, int]
    objects: tuple[CocoObject, ...]

    def read_instances(self, image_size: tuple[int, int] | None = None) -> Instances:
        """Decode the objects, see `InstanceRecord.read_instances`."""
        check_size(f"image {self.id} in {self.mask_path}", self.size, self.image_path, image_size)
        masks = (rle.decode({"size": list(self.size), "counts": item.counts}) for item in self.objects)
        labels, crowd = [item.label for item in self.objects], [item.crowd for item in self.objects]
        return stack_masks(masks, labels, crowd, self.size)

    def check_sizes(self) -> None:
        """Compare the size in the annotation file with that of the image."""
        size = header_size(self.image_path)
        check_size(f"image {self.id} in {self.mask_path}", self.size, self.image_path, size)

    def content_key(self) -> str:
        """Return a text that changes when the image or one of its annotations does."""
        return f"{self.image_key()}|{self._hash()}"

    def fingerprint(self) -> str:
        """Return a text that is the same wherever the same image and annotations lie."""
        return f"{file_status(self.image_path).st_size}|{self._hash()}"

    def _hash(self) -> str:
        return hashlib.sha256(repr((self.size, self.objects)).encode()).hexdigest()


class _Classes(NamedTuple):
    """The class names, and the label and name of each category id that is in use."""

    names: list[str]
    label_of: dict[int, int]


def read_records(
    data_dir: str | Path,
    classes: Sequence[str] = (),
    *,
    annotations: str | None = None,
    group_pattern: str | None = None,
    group_table: str | None = None,
    group_column: str | None = None,
) -> tuple[list[CocoRecord], list[str]]:
    """Read a COCO annotation file; no image is decoded.

    Left out with a logged count are objects that cover no pixel, objects that have a box only (unless all
    have), and objects of categories that are not in `classes`. Images lie beside the annotation file, in
    `data_dir` or in `data_dir/images`.

    Args:
        data_dir: Folder of the data set.
        classes: Names of the categories to use, in the order of their labels. Empty: all that have
            objects, in the order of their ids. Categories of one name are one class.
        annotations: The annotation file, relative to `data_dir`. None: `annotations.json`,
            `_annotations.coco.json`, or the only file in `annotations/`.
        group_pattern: Regular expression whose first group (or whole match) in the file name is the
            group, so that the tiles of one photograph stay together.
        group_table: CSV file, relative to `data_dir`, with the columns `id` and `group_column`.
        group_column: Column of the group in `group_table`, or without table the field of the image entries
            that is the group, such as `extra.name`.

    Returns:
        One record per image, sorted by id, and the names of the classes. An image's id is its file name
        without suffix, with its folders where the names alone repeat; its label is its most frequent class.

    Raises:
        UserError: The file is missing, not COCO or inconsistent, images are missing, a class has another
            name, or the groups' rule does not fit.
    """
    root = Path(data_dir)
    file = load(find_annotations(root, annotations))
    ids = sample_ids(file)
    paths = find_images(file, (file.path.parent, root, root / "images"))
    names = {ids[entry["id"]]: PurePosixPath(file_name(entry)).name for entry in file.images}
    if group_column is not None and group_table is None and group_pattern is None:
        groups = groups_by_field(file, ids, group_column)
    else:
        groups = read_groups(names, root, pattern=group_pattern, table=group_table, column=group_column)
    objects = _read_objects(file)
    used = {item.label for items in objects.values() for item in items}
    chosen = _choose_classes(file, classes, used)
    objects = _with_labels(objects, chosen, file)
    category_ids = _category_ids(chosen, used)
    records = [
        CocoRecord(
            id=ids[entry["id"]],
            image_path=paths[entry["id"]],
            mask_path=file.path,
            label=_most_frequent(objects[entry["id"]]),
            group=groups[ids[entry["id"]]],
            image_number=entry["id"],
            category_ids=category_ids,
            size=(entry["height"], entry["width"]),
            objects=tuple(objects[entry["id"]]),
        )
        for entry in file.images
    ]
    return sorted(records, key=lambda record: record.id), chosen.names


def _read_objects(file: CocoFile) -> dict[int | str, list[CocoObject]]:
    """Return the objects per image that have any pixel, their labels still being category ids."""
    size_of = {entry["id"]: (entry["height"], entry["width"]) for entry in file.images}
    objects: dict[int | str, list[CocoObject]] = {key: [] for key in size_of}
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
        crowd = bool(annotation.get("iscrowd", 0))
        objects[key].append(CocoObject(annotation["category_id"], found["counts"], crowd))
    if num_empty or bare:
        note = "%s: left out %d of %d objects: %d cover no pixel, %d have no mask."
        log.warning(note, file.path, num_empty + bare, len(file.annotations), num_empty, bare)
    return objects


def _choose_classes(file: CocoFile, wanted: Sequence[str], used: set[int]) -> _Classes:
    categories = sorted(file.categories, key=lambda entry: entry["id"])
    in_use = [entry["name"] for entry in categories if entry["id"] in used]
    names = [str(name) for name in wanted] or list(dict.fromkeys(in_use))
    if len(set(names)) < len(names):
        raise UserError(f"data.classes={names} repeats a class. Name each once.")
    if not names:
        raise UserError(f"{file.path} has no object with a mask. Annotate some, or name data.classes.")
    known = [entry["name"] for entry in categories]
    for name in names:
        if name not in known:
            raise UserError(
                f"data.classes names {name!r}, but {file.path} has no category of that name."
                f"{nearest(name, known)} Found: {', '.join(dict.fromkeys(known))}."
            )
        if name not in in_use:
            log.warning("%s: no object is of the class %s.", file.path, name)
        if in_use.count(name) > 1:
            log.warning(
                "%s: %d categories are named %s; they are one class.", file.path, in_use.count(name), name
            )
    unused = [f"{entry['name']} ({entry['id']})" for entry in categories if entry["id"] not in used]
    if unused:
        log.info("%s: categories without objects: %s.", file.path, some(unused))
    label_of = {entry["id"]: names.index(entry["name"]) for entry in categories if entry["name"] in names}
    return _Classes(names, label_of)


def _with_labels(
    objects: dict[int | str, list[CocoObject]], classes: _Classes, file: CocoFile
) -> dict[int | str, list[CocoObject]]:
    """Replace category ids by labels; objects of other categories are left out with a logged count."""
    label_of = classes.label_of
    dropped = Counter(
        item.label for items in objects.values() for item in items if item.label not in label_of
    )
    if dropped:
        name_of = {entry["id"]: entry["name"] for entry in file.categories}
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


def _category_ids(classes: _Classes, used: set[int]) -> tuple[int, ...]:
    """Return one category id per class, one with objects where several have the name."""
    ids: dict[int, list[int]] = defaultdict(list)
    for id_, label in classes.label_of.items():
        ids[label].append(id_)
    return tuple(min(ids[label], key=lambda id_: (id_ not in used, id_)) for label in sorted(ids))
