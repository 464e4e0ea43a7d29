from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from polymask.data.records import Record
from polymask.reporting.previews import EpochPreviews
from polymask.tracking.base import NoTracker


@dataclass
class Prediction:
    id: str


def paint(prediction: Prediction, record: Record) -> np.ndarray:
    """Draw a panel in a grey that tells the sample apart."""
    assert prediction.id == record.id
    return np.full((10, 20 + int(record.id), 3), 20 * int(record.id), np.uint8)


class Keeper(NoTracker):
    def __init__(self) -> None:
        self.kept: list[tuple[str, str]] = []

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self.kept.append((path.name, folder))


def records(number: int) -> list[Record]:
    return [
        Record(id=str(i), image_path=Path(f"{i}.png"), mask_path=None, label=-1, group=str(i))
        for i in range(number)
    ]


def test_every_second_epoch_the_same_samples_are_drawn_in_order(tmp_path: Path) -> None:
    tracker = Keeper()
    previews = EpochPreviews(paint, records(9), tmp_path, tracker, every=2, num_images=3)  # type: ignore[arg-type]
    for epoch in (1, 2, 3, 4):
        consume = previews.consumer(epoch)
        assert (consume is not None) == (epoch % 2 == 0)
        if consume is not None:
            for batch in (("8", "1"), ("4", "0")):  # any order
                consume([Prediction(name) for name in batch])
        previews.finish()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["epoch_0002.jpg", "epoch_0004.jpg"]
    assert tracker.kept == [("epoch_0002.jpg", "previews"), ("epoch_0004.jpg", "previews")]
    picture = cv2.imread(str(tmp_path / "epoch_0002.jpg"))
    heights = [int(picture[row, 5, 0]) for row in (4, 18, 32)]  # samples 0, 4 and 8, from top to bottom
    assert np.allclose(heights, [0, 80, 160], atol=4)


def test_more_pictures_than_samples_draws_each_once(tmp_path: Path) -> None:
    previews = EpochPreviews(paint, records(2), tmp_path, NoTracker(), every=1, num_images=6)  # type: ignore[arg-type]
    consume = previews.consumer(1)
    assert consume is not None
    consume([Prediction("0"), Prediction("1")])
    previews.finish()
    assert cv2.imread(str(tmp_path / "epoch_0001.jpg")).shape[:2] == (28, 21)
