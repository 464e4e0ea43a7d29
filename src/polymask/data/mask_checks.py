"""What is known of all masks of a data set: how they are read, and whether they can be learned from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from polymask.data.facts import Foreground, ImageFacts, MaskFacts
from polymask.data.inspection import FileMemory, image_facts, mask_facts
from polymask.data.mask_values import MaskRule, decide
from polymask.data.pairs import Offence, Pair, pair_problems, refuse
from polymask.data.records import Record
from polymask.errors import UserError
from polymask.structures.masks import IGNORE

ORIENTATIONS = ("same", "own")
_MEND = "Mend or remove these files."
_TURNED = (
    "{count} masks carry another EXIF orientation than their image, so one of the two may be turned twice or "
    "not at all; save both upright, or set data.mask_orientation=own if each file's own is right."
)


class MaskedImages:
    """The files of images with one mask each, looked at whole before anything is learned from them.

    Args:
        records: The samples; their masks are files, or drawn from objects.
        where: Folder of the data set.
        memory: What is known of the files from before.
        mask_values: How the values of mask files are read, see `mask_values.decide`.
        mask_orientation: `same`: a mask and its image must have one EXIF orientation; `own`: each file is
            turned as its own says, whatever the other one's.

    Attributes:
        records: The same samples, with the rule that reads their masks.
        images: Facts of each image, in the order of `records`, or what is wrong with one.
        foregrounds: Foreground of each sample with a mask, by id.
        doubt: Why the values are ambiguous, None when they are not.

    Raises:
        UserError: Files cannot be read, or an image and its mask do not fit together; the log names each.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        where: Path,
        memory: FileMemory,
        mask_values: object,
        mask_orientation: str,
    ) -> None:
        self.images = image_facts([record.image_path for record in records], memory)
        paths = {record.id: path for record in records if (path := _mask_file(record)) is not None}
        files = dict(zip(paths, mask_facts(list(paths.values()), memory), strict=True))
        drawn = _drawn_foregrounds([r for r in records if r.has_mask and r.id not in paths], memory)
        self._refuse_misfits(records, files, drawn, where, same_orientation=mask_orientation == "same")
        if mask_values != "auto" and drawn and not files:
            raise UserError(
                f"data.mask_values={mask_values} is for mask files, but the masks of {where} are drawn from "
                "objects; leave it out."
            )
        self._masks = {id_: facts for id_, facts in files.items() if isinstance(facts, MaskFacts)}
        self.rule, self.doubt = MaskRule(), None
        try:
            self.rule = decide(list(self._masks.values()), mask_values, where=where)
        except UserError as error:
            self.doubt = error  # a task without masks can do without an answer
        self.records = [
            dataclasses.replace(record, truth=record.truth and record.truth.read_by(self.rule))
            for record in records
        ]
        self.foregrounds = {id_: self.rule.foreground(facts) for id_, facts in self._masks.items()}
        self.foregrounds |= {id_: facts for id_, facts in drawn.items() if isinstance(facts, Foreground)}

    def description(self) -> str:
        """Return one line on sizes, bits, orientation, mask values, foreground and empty masks."""
        images = [facts for facts in self.images if isinstance(facts, ImageFacts)]
        parts = [describe_images(images)]
        if self.foregrounds:
            masks = list(self.foregrounds.values())
            kind = f"{_bits(self._masks.values())} masks" if self._masks else "masks drawn from objects"
            values = f" ({self.rule.words})" if self._masks and self.doubt is None else ""
            pixels, total = (sum(column) for column in zip(*masks, strict=True))
            parts.append(f"{len(masks):,} {kind}{values}")
            if self.doubt is None:
                parts.append(f"{pixels / max(total, 1):.1%} foreground")
                parts.append(f"{sum(mask.pixels == 0 for mask in masks):,} empty masks")
            else:
                parts.append(f"which are ambiguous ({self.doubt})")
        else:
            parts.append("no masks")
        turned = sum(facts.orientation != 1 for facts in images)
        turned_masks = sum(facts.orientation != 1 for facts in self._masks.values())
        if turned or turned_masks:
            parts.append(
                f"{turned:,} images and {turned_masks:,} masks turned as their EXIF orientation says"
            )
        return ", ".join(parts)

    def check(self, subset: str, records: Sequence[Record]) -> None:
        """Stop when nothing can be learned or measured from the masks of a subset.

        Args:
            subset: Its name.
            records: Its samples.

        Raises:
            UserError: What the values of masks mean is ambiguous; or no sample has a mask, or all masks are
                empty or all are full.
        """
        if self.doubt is not None:
            raise self.doubt
        masks = [self.foregrounds[record.id] for record in records if record.id in self.foregrounds]
        if not masks:
            raise UserError(
                f"none of the {len(records)} {subset} images has a mask. {records[0].mask_hint} Give masks, "
                "or choose a task that needs none."
            )
        empty = all(mask.pixels == 0 for mask in masks)
        if not empty and any(mask.pixels < mask.total for mask in masks):
            return
        raise UserError(
            f"all {len(masks)} masks of the {subset} subset are {'empty' if empty else 'full'}: "
            f"{'no' if empty else 'every'} pixel is foreground, so "
            f"{'a network that finds nothing' if empty else 'one that marks everything'} would be perfect. "
            + (f"All masks of the set hold {self.rule.words}. " if self._masks else "")
            + self._remedy(empty=empty)
        )

    def _remedy(self, *, empty: bool) -> str:
        """Return what to do about a subset whose masks are all empty, or all full."""
        if any(f.pixels > 0 if empty else f.pixels < f.total for f in self.foregrounds.values()):
            # Others are good: so their values are read well.
            return (
                "Choose the subsets otherwise (data.split_seed, data.split_file, data.fractions), or mend "
                "the masks."
            )
        if self._masks:
            return "Mend the masks, or say with data.mask_values which values are foreground."
        return "Mend the objects."

    def _refuse_misfits(
        self,
        records: Sequence[Record],
        files: Mapping[str, MaskFacts | UserError],
        drawn: Mapping[str, Foreground | UserError],
        where: Path,
        *,
        same_orientation: bool,
    ) -> None:
        offences: list[Offence] = []
        turned = 0
        for record, image in zip(records, self.images, strict=True):
            pair = Pair(record.id, record.image_path, _mask_file(record) or Path())
            mask = files.get(record.id)
            found = pair_problems(pair, image, mask, same_orientation=same_orientation)
            turned += any("EXIF" in problem for problem in found)
            if isinstance(drawn_mask := drawn.get(record.id), UserError):
                found.append(str(drawn_mask))
            offences += [Offence(record.id, problem) for problem in found]
        pairs = [Pair(record.id, record.image_path, Path()) for record in records]
        refuse(offences, pairs, where=where, remedy=_TURNED.format(count=turned) if turned else _MEND)


def describe_images(images: Sequence[ImageFacts]) -> str:
    """Return how many images there are, of which sizes and bits."""
    return f"{len(images):,} images of {_sizes(images)}, {_bits(images)}"


def _drawn_foregrounds(records: Sequence[Record], memory: FileMemory) -> dict[str, Foreground | UserError]:
    """Return the foreground of masks that are drawn from objects, each drawn once and then remembered."""

    def look(record: Record) -> Foreground:
        mask = record.read_mask()
        return Foreground(int(np.count_nonzero(mask == 1)), int(np.count_nonzero(mask != IGNORE)))

    found = memory.facts("objects", records, name=lambda r: r.id, stamp=lambda r: r.content_key(), look=look)
    return {
        record.id: facts if isinstance(facts, UserError) else Foreground(*facts)  # type: ignore[arg-type]
        for record, facts in zip(records, found, strict=True)
    }


def _mask_file(record: Record) -> Path | None:
    return None if record.truth is None else record.truth.mask_file


def _sizes(facts: Iterable[ImageFacts]) -> str:
    counts = Counter((one.width, one.height) for one in facts)
    (width, height), _ = counts.most_common(1)[0]
    if len(counts) == 1:
        return f"{width} x {height} pixels"
    return f"{len(counts):,} sizes (most often {width} x {height} pixels)"


def _bits(facts: Iterable[ImageFacts | MaskFacts]) -> str:
    kinds = {(one.bits, isinstance(one, ImageFacts) and one.is_float) for one in facts}
    return " and ".join(f"{bits}-bit{' float' if is_float else ''}" for bits, is_float in sorted(kinds))
