"""What is looked at before the first epoch in a data set of objects, and what is said of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from polymask.data.facts import ImageFacts
from polymask.data.pieces import draw_sample, look_at
from polymask.data.reading import read_ahead
from polymask.data.records import Record
from polymask.errors import UserError


def check_files(records: Sequence[Record], images: Sequence[ImageFacts | UserError]) -> None:
    """Look at the headers of all files, of every subset: not when a test image is decoded after hours.

    Args:
        records: The samples.
        images: Facts of their images, or what is wrong with one.

    Raises:
        UserError: An image is not sound, or see `Truth.check`.
    """

    def check(pair: tuple[Record, ImageFacts | UserError]) -> None:
        record, image = pair
        if isinstance(image, UserError):
            raise image
        if record.truth is not None:
            record.truth.check((image.height, image.width))

    deque(read_ahead(check, zip(records, images, strict=True)), maxlen=0)


def check_subsets(subsets: Mapping[str, Sequence[Record]], data_dir: Path) -> None:
    """Stop where a whole subset holds no object: nothing can be learned or measured there.

    Args:
        subsets: The samples of each subset.
        data_dir: Folder of the data set, for the message.

    Raises:
        UserError: A subset has images, but no object in any of them; or each is one object as a whole.
    """
    for name, records in subsets.items():
        # Most sets have an object in the first image, so that no other one is decoded.
        if records and not any(read_ahead(_has_object, records)):
            crowds = _num_crowds(records)
            but = f" but {crowds} crowd regions (data.crowd=objects takes these as objects)" if crowds else ""
            raise UserError(
                f"none of the {len(records)} {name} images of {data_dir} holds an object{but}; check the "
                "annotations, or choose the subsets otherwise (data.split_file, data.split_seed)."
            )
        if records and all(read_ahead(_is_one_object, records)):
            raise UserError(
                f"each of the {len(records)} {name} images of {data_dir} is one object that covers all of "
                "it, so there is no background to tell it from; check the annotations."
            )


def describe(records: Sequence[Record]) -> str:
    """Return one line with the numbers of images, objects, crowd regions and images without objects.

    Where only decoding tells, they are those of a sample of the images.
    """
    known = [number for record in records if (number := _num_objects(record)) is not None]
    images = f"{len(records)} images"
    if len(known) == len(records):
        counts, where, pieces = known, images, ""
    else:
        looks = [look for _, look in look_at(records)]
        counts = [look.numbers for look in looks]
        where = images if len(counts) == len(records) else f"{len(counts)} of {images} looked at"
        split = sum(look.pieces for look in looks) / max(1, sum(counts))
        pieces = f", {split:.2f} pieces per object"
    crowds = _num_crowds(records)
    return (
        f"{sum(counts)} objects in {where} ({sum(counts) / max(1, len(counts)):.1f} per image), "
        f"{counts.count(0)} without objects, {crowds} crowd regions{pieces}"
    )


def foreground_share(records: Sequence[Record]) -> float:
    """Return the mean share of an image that objects cover, of a sample of the images."""
    truths = [record.truth for record in draw_sample(records)]
    known = [share for truth in truths if truth is not None and (share := truth.foreground) is not None]
    if len(known) < len(truths):
        known = [look.foreground for _, look in look_at(records)]
    return sum(known) / max(1, len(known))


def _num_objects(record: Record) -> int | None:
    return 0 if record.truth is None else record.truth.num_objects


def _num_crowds(records: Iterable[Record]) -> int:
    return sum(record.truth.num_crowds for record in records if record.truth is not None)


def _has_object(record: Record) -> bool:
    number = _num_objects(record)
    return bool((~record.read_objects().crowd).any()) if number is None else number > 0


def _is_one_object(record: Record) -> bool:
    if _num_objects(record) not in (None, 1):
        return False
    objects = record.read_objects()
    return len(objects.labels) == 1 and bool((objects.union_mask() == 1).all())
