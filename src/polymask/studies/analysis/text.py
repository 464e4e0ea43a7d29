"""The analysis of a data set as text for people."""

from __future__ import annotations

from collections import Counter
from functools import partial

from polymask.studies.analysis.measures import Analysis
from polymask.studies.analysis.pixel_sums import CHANNELS
from polymask.utils.text import align_columns

_MEASURES = ("min", "median", "mean", "max")
_table = partial(align_columns, indent="  ")
_MOST_SIZES = 5  # lines on frequent image sizes


def analysis_text(analysis: Analysis, *, data_dir: str, fingerprint: str, files: str = "") -> str:
    """Return the analysis as text, section by section.

    Args:
        analysis: What was found.
        data_dir: Where the data set is.
        fingerprint: Its hash.
        files: One line on its files: sizes, bits, mask values, orientation.
    """
    values = analysis.statistics()
    source = [["data_dir", data_dir], ["fingerprint", fingerprint], ["images", _images(analysis)]]
    source += [["files", files]] if files else []
    sections = [
        ["Data set", *_table(source, left=2)],
        _pixels(values),
        _sizes(analysis, values),
        _classes(analysis, values),
        _masks(values),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _images(analysis: Analysis) -> str:
    counts = Counter(row.subset for row in analysis.images)
    parts = ", ".join(f"{subset or 'unused'} {counts[subset]:,}" for subset in analysis.subsets)
    return f"{len(analysis.images):,} ({parts})"


def _pixels(values: dict[str, float]) -> list[str]:
    head = ["", "mean", "std", "mean of 255", "std of 255"]
    rows = [
        [
            part,
            *(f"{values[f'pixel_{what}{suffix}']:.4f}" for what in ("mean", "std")),
            *(f"{values[f'pixel_{what}{suffix}_255']:.2f}" for what in ("mean", "std")),
        ]
        for part, suffix in [*((name, f"_{name}") for name in CHANNELS), ("overall", "")]
    ]
    return ["Pixels (of all images at their own size, each counted once)", *_table([head, *rows])]


def _spread(values: dict[str, float], names: dict[str, str]) -> list[str]:
    """Return a table of the least, median, mean and largest value of each of `names` {label: statistic}."""
    rows = [[label, *(f"{values[f'{name}_{m}']:,.7g}" for m in _MEASURES)] for label, name in names.items()]
    return _table([["", *_MEASURES], *rows])


def _sizes(analysis: Analysis, values: dict[str, float]) -> list[str]:
    counts = Counter((row.width, row.height) for row in analysis.images)
    frequent = [
        [f"{width} x {height}", f"{count:,} images"]
        for (width, height), count in counts.most_common(_MOST_SIZES)
    ]
    names = {"width": "image_width", "height": "image_height", "width / height": "image_aspect_ratio"}
    return [
        "Image sizes in pixels",
        *_spread(values, names),
        f"Most frequent of {len(counts):,} different sizes (width x height)",
        *_table(frequent),
    ]


def _classes(analysis: Analysis, values: dict[str, float]) -> list[str]:
    without = f"{values['num_images_without_class']:,} of {len(analysis.images):,} images have no class"
    if not analysis.class_counts:
        return ["Classes: none"]
    whole = sum(counts.total() for counts in analysis.class_counts.values())
    head = ["class", *(subset or "unused" for subset in analysis.subsets), "all", "share"]
    rows = [
        [
            name,
            *(f"{counts[subset]:,}" for subset in analysis.subsets),
            f"{counts.total():,}",
            f"{counts.total() / max(whole, 1):.1%}",
        ]
        for name, counts in analysis.class_counts.items()
    ]
    absent = [name for name, counts in analysis.class_counts.items() if not counts.total()]
    lines = [f"Classes (labels of images or objects; {without})", *_table([head, *rows])]
    return lines + ([f"  absent: {', '.join(absent)}"] if absent else [])


def _masks(values: dict[str, float]) -> list[str]:
    if not values["num_masks"]:
        return ["Masks: none"]
    names = {"share of the image": "mask_share", "area in pixels": "mask_area"}
    if "num_objects_mean" in values:
        names["objects per image"] = "num_objects"
    have = f"{values['num_masks']:,} of {values['num_images']:,} images have one"
    return [f"Masks ({have}, {values['num_empty_masks']:,} of them are empty)", *_spread(values, names)]
