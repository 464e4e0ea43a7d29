"""Finding, loading and checking of COCO annotation files (Lin et al., ECCV 2014)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymask.data.tables import some
from polymask.errors import UserError
from polymask.structures import rle

Entry = dict[str, Any]

FILE_NAMES = ("annotations.json", "_annotations.coco.json")
_FARTHEST = 1e6
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """What an annotation file holds; every reference in it is good, and images have a name and a size."""

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]


def find_annotations(data_dir: Path, annotations: str | None) -> Path:
    """Return the annotation file: the one that is given (relative to `data_dir`), or the only one there.

    Raises:
        UserError: There is none, or several to choose from.
    """
    if not data_dir.is_dir():
        raise UserError(
            f"data.data_dir={str(data_dir)!r} is not a folder. Put images and {FILE_NAMES[0]} there."
        )
    if annotations is not None:
        path = data_dir / annotations
        if not path.is_file():
            raise UserError(
                f"data.reader.annotations={annotations!r}: there is no file {path}. Name the COCO file."
            )
        return path
    for name in FILE_NAMES:
        if (data_dir / name).is_file():
            return data_dir / name
    found = _visible((data_dir / "annotations").glob("*.json"))
    if len(found) == 1:
        return found[0]
    listed = some([str(path.relative_to(data_dir)) for path in found or _visible(data_dir.rglob("*.json"))])
    raise UserError(
        f"{data_dir} has no {' or '.join(FILE_NAMES)}. Choose one with data.reader.annotations, found: "
        f"{listed or 'no JSON file'}."
    )


def load(path: Path) -> CocoFile:
    """Load an annotation file and check what its entries refer to.

    Raises:
        UserError: The file is not COCO, or an entry lacks a field or refers to an unknown image or category.
    """
    content = _load_json(path)
    missing = [name for name in _LISTS if not _is_list_of_entries(content, name)]
    if missing:
        remedy = "Give the annotation file, not a file of results." if isinstance(content, list) else ""
        raise UserError(
            f"{path} is not a COCO annotation file: it has no list {' and no list '.join(missing)}. {remedy}"
        )
    images, annotations, categories = (content[name] for name in _LISTS)
    for what, entries in (("image", images), ("category", categories), ("annotation", annotations)):
        _check_entries(path, what, entries)
    for what, entries in (("image", images), ("category", categories)):
        _check_unique(path, f"{what} id", (entry["id"] for entry in entries))
    _check_references(path, annotations, "image_id", images)
    _check_references(path, annotations, "category_id", categories)
    return CocoFile(path=path, images=images, annotations=annotations, categories=categories)


def encode_annotation(annotation: Entry, size: tuple[int, int], source: str) -> rle.Rle | None:
    """Return the run lengths of an annotation's polygons or run lengths; None when they cover no pixel.

    Args:
        annotation: With a `segmentation`.
        size: (height, width) of its image.
        source: What the annotation is called in messages.

    Raises:
        UserError: A polygon is malformed, or run lengths are those of another size.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        _check_polygons(segmentation, source)
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than 3 points: no area
        found = rle.from_coco(polygons, size) if polygons else None
    elif isinstance(segmentation, dict):
        found = _encode_runs(segmentation, size, source)
    else:
        raise UserError(f"{source} has a segmentation that is neither polygons nor run lengths. Mend it.")
    return found if found is not None and rle.area(found) else None


def _visible(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if not path.name.startswith("."))


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}. Give a COCO annotation file.") from error


def _is_list_of_entries(content: Any, name: str) -> bool:
    entries = content.get(name) if isinstance(content, dict) else None
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_whole(value) or _is_text(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_flag(value: Any) -> bool:
    """Tell whether a value is 0, 1, true or false, or missing."""
    return value is None or (isinstance(value, int | float) and value in (0, 1))


def _is_polygon(value: Any) -> bool:
    """Tell whether a value is a list of numbers, none of them far outside of any image."""
    if not isinstance(value, list) or not {int, float}.issuperset(map(type, value)):
        return False
    # The codec walks along each edge in small steps, so a far point would take all memory.
    return max(map(abs, value), default=0) < _FARTHEST and not math.isnan(sum(value))


_FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "image": {"id": _is_id, "file_name": _is_text, "height": _is_size, "width": _is_size},
    "category": {"id": _is_whole, "name": _is_text},
    "annotation": {"image_id": _is_id, "category_id": _is_whole, "iscrowd": _is_flag},
}


def _check_entries(path: Path, what: str, entries: Sequence[Entry]) -> None:
    for number, entry in enumerate(entries):
        for field, is_good in _FIELDS[what].items():
            if not is_good(entry.get(field)):
                name = entry.get("file_name") or entry.get("id", f"number {number}")
                raise UserError(
                    f"{path}: {what} {name} has {field}={entry.get(field)!r}, which COCO does not allow. "
                    "Mend it."
                )


def _check_unique(path: Path, what: str, values: Iterable[Any]) -> None:
    repeated = [str(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise UserError(f"{path} has more than one {what} {some(repeated)}. Keep one each.")


def _check_references(path: Path, annotations: Sequence[Entry], field: str, targets: Sequence[Entry]) -> None:
    known = {entry["id"] for entry in targets}
    bad = [annotation for annotation in annotations if annotation[field] not in known]
    if bad:
        allowed = "" if field == "image_id" else f" (allowed: {some([str(id_) for id_ in sorted(known)])})"
        raise UserError(
            f"{path}: {len(bad)} of {len(annotations)} annotations have a {field} that is not in the file"
            f"{allowed}, e.g. annotation {bad[0].get('id')} with {field}={bad[0][field]!r}. Mend them."
        )


def _check_polygons(polygons: Sequence[Any], source: str) -> None:
    for polygon in polygons:
        if not _is_polygon(polygon):
            raise UserError(
                f"{source} has a polygon that is not a list [x0, y0, x1, y1, …] of pixels. Mend it."
            )
        if len(polygon) % 2:
            raise UserError(f"{source} has a polygon of {len(polygon)} values, an odd number. Mend it.")


def _encode_runs(segmentation: Entry, size: tuple[int, int], source: str) -> rle.Rle:
    given = segmentation.get("size")
    if given != list(size):
        raise UserError(
            f"{source} has run lengths of size {given} (height, width) but its image is {list(size)}; both "
            "must have one size."
        )
    try:
        found = rle.from_coco(segmentation, size)
        rle.decode(found)  # the codec looks at the sum of the runs only now
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise UserError(
            f"{source} has run lengths that do not fill its image of {size[0]} x {size[1]} pixels. Mend it."
        ) from error
    return found
