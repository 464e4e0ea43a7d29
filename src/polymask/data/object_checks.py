"""What is looked at before the first epoch in a data set of objects, and what is said of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from polymask.data.object_record import InstanceRecord
from polymask.data.pieces import draw_sample, look_at
from polymask.data.reading import read_ahead
from polymask.errors import UserError


def check_files(records: Sequence[InstanceRecord]) -> None:
    """Look at the headers of all files, of every subset: not when a test image is decoded after hours.

    Raises:
        UserError: See `InstanceRecord.check_files`.
    """
    deque(read_ahead(lambda record: record.check_files(), records), maxlen=0)


def check_subsets(
    records: Sequence[InstanceRecord], subsets: Mapping[str, Sequence[str]], data_dir: Path
) -> None:
    """Stop where a whole subset holds no object: nothing can be learned or measured there.

    Args:
        records: The samples.
        subsets: Their ids per subset; ids that are not there are passed over.
        data_dir: Folder of the data set, for the message.

    Raises:
        UserError: A subset has images, but no object in any of them; or each is one object as a whole.
    """
    by_id = {record.id: record for record in records}
    for name, ids in subsets.items():
        own = [by_id[id_] for id_ in ids if id_ in by_id]
        # Most sets have an object in the first image, so that no other one is decoded.
        if own and not any(read_ahead(_has_object, own)):
            crowds = sum(record.num_crowds for record in own)
            but = f" but {crowds} crowd regions (data.crowd=objects takes these as objects)" if crowds else ""
            raise UserError(
                f"none of the {len(own)} {name} images of {data_dir} holds an object{but}; check the "
                "annotations, or choose the subsets otherwise (data.split_file, data.split_seed)."
            )
        if own and all(read_ahead(_is_one_object, own)):
            raise UserError(
                f"each of the {len(own)} {name} images of {data_dir} is one object that covers all of it, so "
                "there is no background to tell it from; check the annotations."
            )


def describe(records: Sequence[InstanceRecord]) -> str:
    """Return one line with the numbers of images, objects, crowd regions and images without objects.

    Where only decoding tells, they are those of a sample of the images.
    """
    known = [record.num_objects for record in records if record.num_objects is not None]
    images = f"{len(records)} images"
    if len(known) == len(records):
        counts, where, pieces = known, images, ""
    else:
        looks = [look for _, look in look_at(records)]
        counts = [look.numbers for look in looks]
        where = images if len(counts) == len(records) else f"{len(counts)} of {images} looked at"
        split = sum(look.pieces for look in looks) / max(1, sum(counts))
        pieces = f", {split:.2f} pieces per object"
    crowds = sum(record.num_crowds for record in records)
    return (
        f"{sum(counts)} objects in {where} ({sum(counts) / max(1, len(counts)):.1f} per image), "
        f"{counts.count(0)} without objects, {crowds} crowd regions{pieces}"
    )


def foreground_share(records: Sequence[InstanceRecord]) -> float:
    """Return the mean share of an image that objects cover, of a sample of the images."""
    shares = [record.foreground for record in draw_sample(records)]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        known = [look.foreground for _, look in look_at(records)]
    return sum(known) / max(1, len(known))


def _is_one_object(record: InstanceRecord) -> bool:
    if record.num_objects not in (None, 1):
        return False
    instances = record.read_instances()
    return len(instances.labels) == 1 and bool((instances.union_mask() == 1).all())


def _has_object(record: InstanceRecord) -> bool:
    if record.num_objects is not None:
        return record.num_objects > 0
    instances = record.read_instances()
    return bool((~instances.crowd).any())
