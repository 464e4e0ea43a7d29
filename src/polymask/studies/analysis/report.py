"""The report on a data set: text, tables, figures and sheets of samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from polymask.data.images import resize_image, resize_mask
from polymask.data.module import DataModule
from polymask.errors import whole_number
from polymask.reporting.canvas import overlay_mask
from polymask.reporting.figures import plot_sample_sheet
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.studies.analysis import figures as analysis_figures
from polymask.studies.analysis.measures import Analysis, analyze
from polymask.studies.analysis.text import analysis_text
from polymask.utils.files import REPORT_NAME, write_text
from polymask.utils.tables import csv_text

_EPOCHS = 5  # augmentations of each training sample on the sheet
_LONGEST_SIDE = 480  # of an image on a sheet, in pixels
_TINT = 0.2  # weak, so that what lies below the mask is seen


class SampleChoice:
    """A random choice among samples that come one by one, each as likely as any other.

    Algorithm R of Vitter, "Random sampling with a reservoir" (1985). The pictures are kept small.

    Args:
        num_samples: How many to keep.
        seed: Seed of the choice.
    """

    def __init__(self, num_samples: int, *, seed: int) -> None:
        self.num_samples = num_samples
        self._random = np.random.default_rng(seed)
        self._kept: list[tuple[int, TitledSample]] = []

    def watch(self, samples: Iterable[OriginalSample]) -> Iterator[OriginalSample]:
        """Hand on all samples and keep some."""
        for number, sample in enumerate(samples):
            place = number if number < self.num_samples else int(self._random.integers(number + 1))
            if place < self.num_samples:
                self._kept[place : place + 1] = [(number, _small_picture(sample))]
            yield sample

    def pictures(self) -> list[TitledSample]:
        """Return the samples kept, in the order in which they came."""
        return [picture for _, picture in sorted(self._kept, key=lambda kept: kept[0])]


def write_analysis(
    folder: Path, data: DataModule, *, num_samples: int, num_augmented: int, seed: int
) -> dict[str, float]:
    """Analyze a data set and write the report.

    Writes `analysis.txt`, `metrics.json`, `statistics.csv`, `per_image.csv`, `classes.csv`,
    `image_sizes.png`, `samples.png`, `augmentations.png`, where there are classes `classes.png`, and where
    there are masks `mask_areas.png` and `mask_coverage.png`.

    Args:
        folder: An existing, empty folder.
        data: The data set.
        num_samples: Random samples on their sheet.
        num_augmented: Training samples on the sheet of augmentations, a row for each.
        seed: Seed of both choices.

    Returns:
        The numbers for a tracker, named `data/…`; see `Analysis.statistics`.

    Raises:
        UserError: The data set holds no images, a file cannot be read, or a number is out of range.
    """
    whole_number("num_samples", num_samples, least=0)
    whole_number("num_augmented", num_augmented, least=0)
    # First, because it is quick and may find a mistake in the configuration.
    augmented = [
        picture for row in data.augmented_samples(num_augmented, _EPOCHS, seed=seed) for picture in row
    ]
    _write_sheet(folder / "augmentations.png", augmented, columns=1 + _EPOCHS)
    choice = SampleChoice(num_samples, seed=seed)
    analysis = analyze(choice.watch(data.original_samples()), class_names=data.classes)
    _write_sheet(folder / "samples.png", choice.pictures(), columns=4)
    statistics = analysis.statistics()
    source = {"data_dir": str(data.data_dir), "fingerprint": data.fingerprint()}
    write_text(folder / "analysis.txt", analysis_text(analysis, **source, files=data.description()))
    _write_tables(folder, analysis, statistics)
    _write_figures(folder, analysis)
    content = source | {"seed": seed, "metrics": statistics}
    write_text(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    return {f"data/{name}": value for name, value in statistics.items()}


def _small_picture(sample: OriginalSample) -> TitledSample:
    height, width = sample.image.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    words = [*dict.fromkeys(sample.class_names), sample.subset or "unused", f"{width} x {height}"]
    title = f"{sample.id}: {', '.join(words)}"
    mask = None if sample.mask is None else resize_mask(sample.mask, size)
    return TitledSample(title, resize_image(sample.image, size), mask)


def _write_sheet(path: Path, pictures: Sequence[TitledSample], *, columns: int) -> None:
    images = [
        image if mask is None else overlay_mask(image, mask, alpha=_TINT) for _, image, mask in pictures
    ]
    plot_sample_sheet(images, [picture.title for picture in pictures], path, columns)


def _write_tables(folder: Path, analysis: Analysis, statistics: dict[str, float]) -> None:
    write_text(folder / "statistics.csv", csv_text(("name", "value"), statistics.items()))
    columns = ("id", "subset", "width", "height", "classes", "mask_area", "mask_share", "num_objects")
    rows = [
        (r.id, r.subset, r.width, r.height, "|".join(r.class_names), r.mask_area, r.mask_share, r.num_objects)
        for r in analysis.images
    ]
    write_text(folder / "per_image.csv", csv_text(columns, rows))
    subsets = analysis.subsets
    counts = [
        (name, *(row[subset] for subset in subsets), row.total())
        for name, row in analysis.class_counts.items()
    ]
    header = ("class", *(subset or "unused" for subset in subsets), "all")
    write_text(folder / "classes.csv", csv_text(header, counts))


def _write_figures(folder: Path, analysis: Analysis) -> None:
    widths = np.array([row.width for row in analysis.images])
    heights = np.array([row.height for row in analysis.images])
    analysis_figures.plot_image_sizes(widths, heights, folder / "image_sizes.png")
    if analysis.class_counts:
        analysis_figures.plot_class_counts(analysis.class_counts, analysis.subsets, folder / "classes.png")
    if analysis.coverage is not None:
        areas = np.array([row.mask_area for row in analysis.images if row.mask_area is not None])
        analysis_figures.plot_mask_areas(analysis.mask_shares(), areas, folder / "mask_areas.png")
        ratio = float(np.median(widths / heights))
        path = folder / "mask_coverage.png"
        analysis_figures.plot_mask_coverage(analysis.coverage, len(areas), ratio, path)
