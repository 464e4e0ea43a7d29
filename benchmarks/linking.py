"""Linking on its own: how well true sections are put together again, and how time and memory grow.

python benchmarks/linking.py [--data data/cells3d] [--removed 0.05] [--shape 59 512 512] [--frames 1 10]

The table has SEG and the number of objects when the sections of a truth get random numbers in every slice and
are linked by each rule, of the folder's `mask3d.tif` (left out where there is none) and of drawn nuclei; and
the same with a share of the sections removed. The last rule is the default of `task.linking`.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from polymask.data.demo.nuclei import draw_labels, place_nuclei
from polymask.data.stacks import open_stack
from polymask.families.volumes.linking import Linker, Linking, apply_links
from polymask.families.volumes.scorer import Scorer
from polymask.metrics.volumes import match_volume, slice_rows
from polymask.structures import rle
from polymask.structures.objects import FoundObjects
from polymask.structures.overlaps import count_overlaps, intersection_over_union
from polymask.structures.volumes import FoundVolume
from polymask.utils.text import align_columns


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/cells3d"), help="folder of mask3d.tif")
    parser.add_argument("--removed", type=float, default=0.05, help="share of the sections")
    parser.add_argument("--shape", type=int, nargs=3, default=[59, 512, 512], help="of the volumes that grow")
    parser.add_argument("--frames", type=int, nargs="*", default=[1, 10], help="volumes per measurement")
    options = parser.parse_args()

    truths = {"drawn": drawn((59, 256, 256), 12)}
    if (options.data / "mask3d.tif").is_file():
        truths = {"cells3d": np.stack(list(open_stack(options.data / "mask3d.tif").pages()))} | truths
    print_table(truths, options.removed)
    truth = drawn(options.shape, 20)
    for frames in options.frames:
        print_growth(truth, frames)


def drawn(shape: tuple[int, int, int], number: int) -> np.ndarray:
    """Return the labels (Z, H, W) of drawn nuclei that touch."""
    rng = np.random.default_rng(0)
    return draw_labels(place_nuclei(tuple(shape), number, rng, touching=True), tuple(shape))


def print_table(truths: dict[str, np.ndarray], removed: float) -> None:
    """Print SEG, and the number of objects in brackets, per rule and truth."""
    names = [name for truth in truths for name in (truth, f"{truth}, {removed:.0%} removed")]
    lines = [["rule", *names]]
    for rule, link in RULES.items():
        cells = []
        for truth in truths.values():
            for share in (0.0, removed):
                found = link(scrambled(truth, share))
                cells.append(f"{seg_of(found, truth):.4f} ({len(found.scores)})")
        lines.append([rule, *cells])
    print("\n".join(align_columns(lines)))


def scrambled(truth: np.ndarray, removed: float) -> np.ndarray:
    """Return (Z, H, W) section numbers: those of a truth in random order per slice, some of them removed."""
    rng = np.random.default_rng(0)
    labels = np.zeros_like(truth)
    for of_slice, true in zip(labels, truth, strict=True):
        numbers = rng.permutation(np.unique(true[true > 0]))
        numbers = numbers[rng.random(len(numbers)) >= removed]
        lookup = np.zeros(int(truth.max()) + 1, truth.dtype)
        lookup[numbers] = np.arange(1, len(numbers) + 1)
        of_slice[:] = lookup[true]
    return labels


def found_volume(labels: np.ndarray) -> FoundVolume:
    """Return objects of a label volume whose scores are all 1."""
    count = int(labels.max())
    return FoundVolume(
        id="volume", labels=labels, scores=np.ones(count, np.float32), classes=np.zeros(count, np.int64)
    )


def linked(**options: object) -> Callable[[np.ndarray], FoundVolume]:
    """Return what links sections with options of `Linking`."""

    def link(sections: np.ndarray) -> FoundVolume:
        linker = Linker(Linking.from_options(options), sections.shape[1:])
        for of_slice in sections:
            count = int(of_slice.max())
            linker.add(of_slice, np.ones(count), np.zeros(count, np.int64))
        labels = sections.copy()
        apply_links(labels, linker.finish())
        return found_volume(labels)

    return link


def assigned(sections: np.ndarray, *, min_iou: float = 0.25, gap: int = 1) -> FoundVolume:
    """Link by the assignment with the largest sum of IoU, with the last slice first, then across the gap."""
    labels, count = np.zeros_like(sections), 0
    for z, new in enumerate(sections):
        numbers = np.zeros(int(new.max()) + 1, labels.dtype)  # of the objects that sections continue
        for before in range(z - 1, max(z - 2 - gap, -1), -1):
            old, continued = labels[before], np.append(np.unique(labels[before + 1 : z]), numbers)
            overlaps = count_overlaps(
                np.where(np.isin(old, continued), 0, old), np.where(numbers[new] == 0, new, 0)
            )
            iou = intersection_over_union(overlaps, np.bincount(old.ravel()), np.bincount(new.ravel()))
            table = np.zeros((int(old.max()) + 1, len(numbers)))
            table[overlaps.first, overlaps.second] = np.where(iou >= min_iou, iou, 0)
            objects, places = linear_sum_assignment(table, maximize=True)
            is_pair = table[objects, places] > 0
            numbers[places[is_pair]] = objects[is_pair]
        begun = np.flatnonzero(numbers == 0)[1:]
        numbers[begun] = count + 1 + np.arange(len(begun))
        count += len(begun)
        labels[z] = numbers[new]
    return found_volume(labels)


def components(sections: np.ndarray) -> FoundVolume:
    """Let every connected component of the foreground be an object."""
    return found_volume(ndimage.label(sections > 0)[0].astype(np.uint16))


RULES = {
    "connected components": components,
    "largest sum of IoU (Hungarian), IoU >= 0.25, gap 1": assigned,
    "mutual best, IoU >= 0.25": linked(min_iou=0.25, gap=0, convex=False, min_slices=1),
    "mutual best, IoU >= 0.25, gap 1 at >= 0.25": linked(
        gap_iou=0.25, min_iou=0.25, convex=False, min_slices=1
    ),
    "mutual best, IoU >= 0.4, gap 1 at >= 0.6": linked(min_iou=0.4, gap_iou=0.6, convex=False, min_slices=1),
    "mutual best, IoU >= 0.25, gap 1 at >= 0.5, area rule": linked(min_iou=0.25, gap_iou=0.5, min_slices=1),
    "mutual best, IoU >= 0.1, gap 1 at >= 0.4, area rule": linked(min_slices=1),
    "the same, two slices at least, gaps filled": linked(fill_gaps=True),
    "the same, two slices at least (default)": linked(),
}


def seg_of(found: FoundVolume, truth: np.ndarray) -> float:
    """Return SEG of a found volume."""
    every = np.ones(len(truth), bool)
    nothing = [objects_of(np.zeros_like(truth[0]))] * len(truth)
    row = match_volume(found, truth, every) | slice_rows(nothing, truth, every)
    return float(Scorer().metrics({name: value[None] for name, value in row.items()})["seg"][0])


def objects_of(labels: np.ndarray) -> FoundObjects:
    """Return the sections of a label map (H, W) as objects of score 1."""
    masks = [rle.encode(labels == number) for number in np.unique(labels[labels > 0])]
    return FoundObjects(
        id="slice",
        size=labels.shape,
        boxes=np.array([rle.box(mask) for mask in masks], np.float32).reshape(-1, 4),
        labels=np.zeros(len(masks), np.int64),
        masks=masks,
        scores=np.ones(len(masks), np.float32),
    )


def print_growth(truth: np.ndarray, frames: int) -> None:
    """Print the CPU seconds of linking and measuring so many volumes, each of the size of `truth`."""
    sections, every = scrambled(truth, 0.05), np.ones(len(truth), bool)
    objects = [objects_of(of_slice) for of_slice in sections]
    link, rows = linked(), []
    seconds = dict.fromkeys(("linking", "volumes", "slices", "metrics"), 0.0)
    for _ in range(frames):
        with timed(seconds, "linking"):
            found = link(sections)
        with timed(seconds, "volumes"):
            row = match_volume(found, truth, every)
        with timed(seconds, "slices"):
            row |= slice_rows(objects, truth, every)
        rows.append(row)
    with timed(seconds, "metrics"):
        measured = Scorer().metrics({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    parts = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    size = " x ".join(map(str, truth.shape))
    print(f"{frames} frames of {size}: {parts}; peak {peak:.0f} MiB; SEG {measured['seg'][0]:.4f}")


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds of the block to `seconds[name]`."""
    start = time.process_time()
    yield
    seconds[name] += time.process_time() - start


if __name__ == "__main__":
    main()
