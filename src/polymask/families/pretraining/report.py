"""The test report of reconstructions: metrics, a table, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from polymask.data.images import read_image, write_image
from polymask.data.module import DataModule
from polymask.families import base
from polymask.families.pretraining.predictions import ReconstructedImage, panel
from polymask.families.pretraining.scorer import Scorer
from polymask.metrics.rows import mean_losses
from polymask.reporting.canvas import stack_panels, text_bar
from polymask.reporting.course import Course, plot_course
from polymask.reporting.metrics_file import write_metrics
from polymask.reporting.rows import read_samples, write_samples
from polymask.structures.samples import Rows
from polymask.utils.files import write_text

_EXAMPLES = 2  # of the best, of the middle and of the worst


class Report(base.Report):
    """Writes the picture of each image as it comes, and everything else at the end.

    Args:
        folder: Where to write; for `picture` alone, where an earlier report lies.
        scorer: Computes the metrics.
        data: The data set, for groups.
    """

    bulk_folders = ("reconstructions",)

    def __init__(self, folder: Path, *, scorer: Scorer, data: DataModule) -> None:
        self.folder, self.scorer, self.data = folder, scorer, data

    def add(self, predictions: Sequence[ReconstructedImage]) -> None:
        """Write the pictures of one batch to `reconstructions/{id}.jpg`."""
        for prediction in predictions:
            write_image(self._path(prediction.id), panel(prediction))

    def finish(self, rows: Rows, course: Course) -> list[str]:
        """Write metrics with intervals, the table of images, and the pictures of a few."""
        groups = self.data.groups(list(rows["ids"]))
        measured = write_metrics(
            self.folder,
            lambda weights: self.scorer.metrics(rows, weights),
            groups,
            losses=mean_losses(rows),
            details={"grid": list(self.data.image_size or ()), "split_sha256": self.data.split.sha256},
        )
        write_samples(self.folder, rows, groups)
        write_text(self.folder / "per_sample.csv", self._table.to_csv(index=False))
        plot_course(course, self.folder)
        write_image(self.folder / "reconstructions.png", self._examples())
        return measured.lines(self.scorer.headline)

    def picture(self, id_: str) -> np.ndarray:
        """Return the picture of one image with its numbers below, from the files of the report."""
        return self._captioned(id_)

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The table of images, from the file, so that an earlier report has it as well."""
        rows, groups = read_samples(self.folder)
        return sample_table(rows, groups, self.scorer)

    def _path(self, id_: str) -> Path:
        return self.folder / "reconstructions" / f"{id_}.jpg"

    def _captioned(self, id_: str, *words: str) -> np.ndarray:
        row = self._table.set_index("id").loc[id_]
        shown = read_image(self._path(id_))
        numbers = f"loss {row['loss']:.3f}, of the mean colour {row['loss_mean_image']:.3f}"
        caption = " | ".join([*words, id_, numbers, f"explained {row['explained']:.1%}"])
        return np.vstack([shown, text_bar(caption, shown.shape[1])])

    def _examples(self) -> np.ndarray:
        """Return the best, the middle and the worst images, one below the other; each once."""
        ids = self._table.sort_values("explained", ascending=False, kind="stable")["id"].tolist()
        middle = max(0, (len(ids) - _EXAMPLES) // 2)
        places = {"worst": slice(-_EXAMPLES, None), "median": slice(middle, middle + _EXAMPLES)}
        kinds = {id_: kind for kind, place in places.items() for id_ in ids[place]}
        kinds |= dict.fromkeys(ids[:_EXAMPLES], "best")
        return stack_panels([self._captioned(id_, kinds[id_]) for id_ in ids if id_ in kinds])


def sample_table(rows: Rows, groups: Sequence[str], scorer: Scorer) -> pd.DataFrame:
    """Return one line per test image: its losses, and the share of its variance that is explained."""
    losses = {name: rows[name] for name in ("loss", "loss_mean_image")}
    return pd.DataFrame({"id": rows["ids"], "group": groups, **losses, **scorer.scores(rows)})
