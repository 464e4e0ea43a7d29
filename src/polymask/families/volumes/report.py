"""The test report of volumes: results as the Cell Tracking Challenge wants them, tables, pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from polymask.data.images import read_image, write_image
from polymask.data.module import DataModule
from polymask.data.records import Record
from polymask.data.volume_truth import volume_truth
from polymask.families import base
from polymask.families.threshold_report import plot_calibration, write_thresholds
from polymask.families.volumes import ctc
from polymask.families.volumes.drawing import volume_panel
from polymask.families.volumes.scene import Scene, scene_of
from polymask.families.volumes.scorer import Scorer
from polymask.families.volumes.tables import ObjectTable, object_rows
from polymask.metrics.rows import mean_losses
from polymask.metrics.volume_threshold import best_volume_threshold, linked_objects, volume_metrics_at
from polymask.metrics.volumes import counted_sections
from polymask.reporting.canvas import text_bar
from polymask.reporting.course import Course, plot_course
from polymask.reporting.metrics_file import write_metrics
from polymask.reporting.rows import read_samples, write_samples
from polymask.structures.samples import Rows
from polymask.structures.volumes import FoundVolume
from polymask.utils.files import write_text

_EXAMPLES = 4
_PICTURES = "overlays"


@dataclass
class _Sequence:
    """What the report keeps of a sequence until all of its frames are written."""

    frames: list[ctc.TrueFrame] = field(default_factory=list)
    numbers: list[range] = field(default_factory=list)

    def add(self, frame: ctc.TrueFrame, count: int) -> int:
        """Take a frame with `count` found objects; return what their numbers are to be raised by."""
        self.frames.append(frame)
        offset = self.numbers[-1].stop - 1 if self.numbers else 0
        if offset + count > ctc.MOST_OBJECTS:
            offset = 0
        self.numbers.append(range(offset + 1, offset + 1 + count))
        return offset

    def finish(self, folder: Path, name: str) -> None:
        """Write the tracks of the found and of the true objects; `folder` is that of the report."""
        if sum(map(len, self.numbers)) > ctc.MOST_OBJECTS:
            ctc.warn_of_many(name)
        else:
            numbers = (
                (ctc.number_of(frame.name), own) for frame, own in zip(self.frames, self.numbers, strict=True)
            )
            ctc.write_tracks(folder / f"{name}_RES" / ctc.TRACKS_NAME, numbers)
        ctc.link_tracks(folder, name, sorted(self.frames, key=lambda frame: frame.name))


class Report(base.Report):
    """Writes the objects and the picture of each frame as it comes, and everything else at the end.

    Args:
        folder: Where to write; for `picture` alone, where an earlier report lies.
        scorer: Computes the metrics.
        data: The data set, for volumes, truth and groups.
        score_threshold: Least score of the sections that count.
        voxel_size: Edges of a voxel along z, y, x in micrometres, None when unknown.
        validation: What score thresholds follow from, {} where nothing is known.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scorer: Scorer,
        data: DataModule,
        score_threshold: float,
        voxel_size: Sequence[float] | None,
        validation: Rows,
    ) -> None:
        self.folder, self.scorer, self.data, self.voxel_size = folder, scorer, data, voxel_size
        self.score_threshold, self.validation = score_threshold, validation
        self._objects = ObjectTable(folder, voxel_size=voxel_size)
        self._sequences: dict[str, _Sequence] = defaultdict(_Sequence)

    @property
    def bulk_folders(self) -> Sequence[str]:
        """Return the folders of masks, of links to the truth, and of the pictures of all frames."""
        files = [ctc.mask_path(name) for name in self._names.values()]
        files += [
            Path(f"{sequence}_GT") for sequence in map(ctc.sequence_of, self._names.values()) if sequence
        ]
        return sorted({_PICTURES, *(file.parts[0] for file in files)})

    def add(self, predictions: Sequence[FoundVolume]) -> None:
        """Write masks, links to the truth, table rows and picture of each frame of one batch."""
        for prediction in predictions:
            record = self._records[prediction.id]
            scene = scene_of(prediction, record, self.voxel_size)
            offset = self._keep(prediction, record, scene)
            ctc.write_masks(
                self.folder / ctc.mask_path(self._names[record.id]), prediction.labels, offset=offset
            )
            rows = object_rows(
                prediction.labels,
                prediction.scores,
                prediction.classes,
                self.voxel_size,
                class_names=self.data.classes,
            )
            self._objects.add(record.id, rows, offset=offset)
            write_image(self._picture_path(record.id), volume_panel(scene))

    def finish(self, rows: Rows, course: Course) -> list[str]:
        """Write tracks, metrics with intervals, the table of frames and example pictures."""
        self._objects.finish()
        for name, sequence in self._sequences.items():
            sequence.finish(self.folder, name)
        groups = self.data.groups(list(rows["ids"]))
        measured = write_metrics(
            self.folder,
            lambda weights: self.scorer.metrics(rows, weights),
            groups,
            losses=mean_losses(rows),
            details={
                "score_threshold": self.score_threshold,
                "voxel_size_um": None if self.voxel_size is None else list(self.voxel_size),
                "split_sha256": self.data.split.sha256,
            },
        )
        write_samples(self.folder, rows, groups)
        write_text(self.folder / "per_sample.csv", self._table.to_csv(index=False))
        self._write_thresholds(rows, groups)
        plot_course(course, self.folder)
        self._write_examples(rows)
        return measured.lines(self.scorer.headline)

    def picture(self, id_: str) -> np.ndarray:
        """Return the picture of one test frame with its numbers below, from the files of the report.

        Args:
            id_: Its id.

        Returns:
            (H, W, 3) uint8 RGB: cuts and slices with true and found objects, caption.

        Raises:
            UserError: The folder holds no report of a test.
        """
        shown = read_image(self._picture_path(id_))
        caption = _caption(id_, self._table[self._table["id"] == id_].iloc[0])
        return np.vstack([shown, text_bar(caption, shown.shape[1])])

    @cached_property
    def _records(self) -> dict[str, Record]:
        return {record.id: record for record in self.data.subset("test")}

    @cached_property
    def _names(self) -> dict[str, str]:
        return ctc.frames_from_zero(self._records)

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The table of frames, from the file, so that an earlier report has it as well."""
        return sample_table(*read_samples(self.folder), self.scorer)

    def _picture_path(self, id_: str) -> Path:
        return self.folder / _PICTURES / f"{id_}.png"

    def _keep(self, prediction: FoundVolume, record: Record, scene: Scene) -> int:
        """Link the truth, remember what `finish` needs; return what the numbers are to be raised by."""
        name = self._names[record.id]
        sequence = ctc.sequence_of(name)
        if sequence is None:
            return 0
        truth = volume_truth(record)
        files = [path for _, path in truth.slices] or [truth.path]
        labels = np.array([], np.int64)
        if scene.true_shapes is not None:
            labels = np.flatnonzero(scene.true_shapes.voxels) + 1
        ctc.link_truth(self.folder, name, files)
        frame = ctc.TrueFrame(record.id, name, files, labels)
        return self._sequences[sequence].add(frame, len(prediction.scores))

    def _write_thresholds(self, rows: Rows, groups: Sequence[str]) -> None:
        linked = linked_objects(rows)
        write_thresholds(
            self.folder,
            linked,
            groups,
            self.validation if linked else {},
            self.score_threshold,
            best=best_volume_threshold,
            measure=volume_metrics_at,
        )
        plot_calibration(self.folder, counted_sections(rows), groups, "sections")

    def _write_examples(self, rows: Rows) -> None:
        """Write pictures of evenly spread frames and of the worst, by the first of their scores."""
        ids = rows["ids"]
        scores = next(iter(self.scorer.scores(rows).values()))
        worst = [index for index in np.argsort(scores, kind="stable") if not np.isnan(scores[index])]
        spread = np.unique(np.linspace(0, len(ids) - 1, _EXAMPLES).round().astype(int))
        for kind, chosen in {"sample": spread.tolist(), "worst": worst[:_EXAMPLES]}.items():
            for number, index in enumerate(chosen, start=1):
                id_ = str(ids[index])
                name = f"{kind}_{number}_{id_.replace('/', '_')}.png"
                write_image(self.folder / "predictions" / name, self.picture(id_))


def sample_table(rows: Rows, groups: Sequence[str], scorer: Scorer) -> pd.DataFrame:
    """Return one line per test frame: its scores, and how many objects are true, missed, false, to be split.

    Args:
        rows: Rows of `polymask.metrics.volumes.match_volume`, and `ids`.
        groups: (N,) group of each frame.
        scorer: Computes the scores.
    """
    counts = {"true": "seg_count", "missed": "det_fn", "false": "det_fp", "to_split": "det_ns"}
    counted = {name: rows[row].astype(np.int64) for name, row in counts.items()}
    return pd.DataFrame({"id": rows["ids"], "group": groups, **scorer.scores(rows), **counted})


def _caption(id_: str, row: pd.Series) -> str:
    counts = f"of {row['true']} true {row['missed']} missed, {row['false']} false, {row['to_split']} to split"
    scores = (f"{name.upper()} {row[name]:.3f}" for name in ("seg", "det") if not np.isnan(row[name]))
    return " | ".join([id_, *scores, counts])
