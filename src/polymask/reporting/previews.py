"""Pictures in the course of a training: what the network gets, and what it makes of validation samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.records import Record
from polymask.structures.samples import TitledSample
from polymask.tracking.base import Tracker


def write_training_samples(path: Path, samples: Sequence[TitledSample]) -> None:
    """Write a sheet of training images, their masks tinted."""
    # Imported with the first picture: most runs draw none, and start sooner without.
    from polymask.reporting.canvas import overlay_mask
    from polymask.reporting.figures import plot_sample_sheet

    images = [image if mask is None else overlay_mask(image, mask, alpha=0.2) for _, image, mask in samples]
    plot_sample_sheet(images, [sample.title for sample in samples], path, columns=3)


class EpochPreviews:
    """Writes `epoch_{number}.jpg` with the panels of the same samples, one below the other.

    Args:
        picture: Draws the panel of a prediction and its record.
        records: The validation samples; `num_images` of them, evenly spread, are drawn.
        folder: Where to write.
        tracker: Keeps each picture as an artifact in `previews`.
        every: Epochs between pictures; the first one is of epoch `every`.
        num_images: Samples per picture.
    """

    def __init__(
        self,
        picture: Callable[[Any, Record], np.ndarray],
        records: Sequence[Record],
        folder: Path,
        tracker: Tracker,
        *,
        every: int,
        num_images: int = 6,
    ) -> None:
        self.picture, self.folder, self.tracker, self.every = picture, folder, tracker, every
        chosen = np.unique(np.linspace(0, len(records) - 1, num_images).round().astype(int))
        self._records = {records[index].id: records[index] for index in chosen}
        self._panels: dict[str, np.ndarray] = {}
        self._epoch = 0

    def consumer(self, epoch: int) -> Callable[[Sequence[Any]], None] | None:
        """Return what takes the predictions of `epoch` (from 1), None when it is not one to draw."""
        self._panels, self._epoch = {}, epoch
        return self._take if epoch % self.every == 0 else None

    def finish(self) -> None:
        """Write the picture of the epoch, if one was drawn, and hand it to the tracker."""
        if not self._panels:
            return
        # Imported with the first picture: most runs draw none, and start sooner without.
        from polymask.data.images import write_image
        from polymask.reporting.canvas import stack_panels

        path = self.folder / f"epoch_{self._epoch:04d}.jpg"
        write_image(path, stack_panels([self._panels[id_] for id_ in self._records if id_ in self._panels]))
        self.tracker.log_artifact(path, "previews")
        self._panels = {}

    def _take(self, predictions: Sequence[Any]) -> None:
        for prediction in predictions:
            record = self._records.get(prediction.id)
            if record is not None:
                self._panels[prediction.id] = self.picture(prediction, record)
