from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from ctc_metrics.scripts import evaluate
from volume_files import write_ctc

from polymask.data.images import read_image
from polymask.data.sources.ctc import read_ctc
from polymask.families.volumes.report import Report
from polymask.families.volumes.scorer import Scorer
from polymask.metrics.volumes import match_volume, slice_rows
from polymask.reporting.course import Course
from polymask.reporting.rows import read_samples
from polymask.structures import rle
from polymask.structures.objects import FoundObjects
from polymask.structures.volumes import FoundVolume

SHAPE = (6, 48, 56)
VOXEL = (0.5, 0.125, 0.125)
OPTIONS: Any = {"voxel_size": VOXEL, "score_threshold": 0.5, "validation": {}}
HISTORY = [{"epoch": epoch, "train/loss": 2 / epoch, "val/loss": 2.5 / epoch} for epoch in (1, 2, 3)]


@dataclass
class Data:
    """What a report asks of a data set."""

    records: list[Any]
    classes: Sequence[str] = ("cell",)
    split: Any = field(default_factory=lambda: SimpleNamespace(sha256="f00d"))

    def subset(self, name: str) -> list[Any]:
        assert name == "test"
        return self.records

    def groups(self, ids: Sequence[str]) -> list[str]:
        group = {record.id: record.group for record in self.records}
        return [group[id_] for id_ in ids]


def read_volume(path: Path) -> np.ndarray:
    return np.stack(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def truth_of(record: Any) -> np.ndarray:
    return np.stack(list(record.truth.pages(SHAPE)))


def find(record: Any, rng: np.random.Generator) -> FoundVolume:
    """Find most true objects a little shifted, two of them as one now and then, and a false one."""
    truth, labels, count = truth_of(record), np.zeros(SHAPE, np.uint16), 0
    for label in np.unique(truth)[1:]:
        if rng.random() < 0.8:
            count += rng.random() < 0.8 or count == 0
            labels[np.roll(truth == label, rng.integers(-2, 3), axis=2)] = count
    labels[1:3, :4, :4] = count + 1
    labels = np.unique(labels, return_inverse=True)[1].reshape(SHAPE).astype(np.uint16)
    num = int(labels.max())
    return FoundVolume(
        id=record.id,
        labels=labels,
        scores=rng.random(num).astype(np.float32),
        classes=np.zeros(num, np.int64),
    )


def sections(found: FoundVolume) -> list[FoundObjects]:
    result = []
    for page in found.labels:
        masks = [rle.encode(page == number) for number in np.unique(page[page > 0])]
        result.append(
            FoundObjects(
                id=found.id,
                size=page.shape,
                boxes=np.array([rle.box(mask) for mask in masks], np.float32).reshape(-1, 4),
                labels=np.zeros(len(masks), np.int64),
                masks=masks,
                scores=np.linspace(0.9, 0.6, len(masks)).astype(np.float32),
            )
        )
    return result


def rows_of(records: Sequence[Any], predictions: Sequence[FoundVolume]) -> dict[str, np.ndarray]:
    single = []
    for record, found in zip(records, predictions, strict=True):
        truth, annotated = truth_of(record), record.truth.annotated(SHAPE[0])
        row = match_volume(found, truth, annotated)
        single.append(row | slice_rows(sections(found), truth, annotated))
    rows = {name: np.stack([row[name] for row in single]) for name in single[0]}
    return rows | {
        "ids": np.array([record.id for record in records]),
        "loss": np.linspace(1, 2, len(records)),
    }


@dataclass
class Outcome:
    folder: Path
    data_dir: Path
    data: Data
    rows: dict[str, np.ndarray]
    predictions: list[FoundVolume]
    report: Report
    lines: list[str]


def run_report(data_dir: Path, folder: Path, records: list[Any]) -> Outcome:
    data, rng = Data(records), np.random.default_rng(3)
    predictions = [find(record, rng) for record in records]
    rows = rows_of(records, predictions)
    report = Report(folder, scorer=Scorer(), data=data, **OPTIONS)  # type: ignore[arg-type]
    report.add(predictions[:1])
    report.add(predictions[1:])
    lines = report.finish(rows, Course(history=HISTORY, best_epoch=3))
    return Outcome(folder, data_dir, data, rows, predictions, report, lines)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A whole sequence, and the last frames of another one."""
    data_dir, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("report")
    write_ctc(data_dir, sequences=2, frames=4, shape=SHAPE, objects=5)
    records, _ = read_ctc(data_dir)
    not_tested = ("02/t000", "02/t001")
    return run_report(data_dir, folder, [record for record in records if record.id not in not_tested])


@pytest.fixture
def objects(tested: Outcome) -> pd.DataFrame:
    return pd.read_csv(tested.folder / "objects.csv")


def official(folder: Path, sequence: str, *wanted: str) -> dict[str, float]:
    """What the program of the challenge says of a folder."""
    table = folder.with_suffix(f".{sequence}.csv")
    paths = ["--gt", folder / f"{sequence}_GT", "--res", folder / f"{sequence}_RES", "--csv-file", table]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ctc_evaluate", *map(str, paths), *wanted, "-n", "1"])
        evaluate.main()
    (row,) = csv.DictReader(table.read_text().splitlines(), delimiter=";")
    return {name: float(value) for name, value in row.items()}


@pytest.mark.parametrize("sequence", ["01", "02"])
def test_the_official_program_runs_on_the_folder_and_agrees(tested: Outcome, sequence: str) -> None:
    measured = official(tested.folder, sequence, "--seg", "--det", "--valid")
    of_it = np.array([str(id_).startswith(sequence) for id_ in tested.rows["ids"]])
    own = Scorer().metrics(tested.rows, of_it[None].astype(float))
    assert measured["Valid"] == 1
    assert measured["SEG"] == pytest.approx(own["seg"][0], abs=1e-12)
    assert measured["DET"] == pytest.approx(own["det"][0], abs=1e-12)
    assert 0.1 < measured["SEG"] < 0.95
    assert 0.1 < measured["DET"] < 1


def test_a_sequence_tested_in_part_counts_from_its_first_tested_frame(tested: Outcome) -> None:
    linked = tested.folder / "02_GT/SEG/man_seg000.tif"
    assert linked.resolve() == (tested.data_dir / "02_GT/SEG/man_seg002.tif").resolve()
    names = [path.name for path in sorted((tested.folder / "02_RES").iterdir())]
    assert names == ["mask000.tif", "mask001.tif", "res_track.txt"]
    found = next(found for found in tested.predictions if found.id == "02/t002")
    np.testing.assert_array_equal(read_volume(tested.folder / "02_RES/mask000.tif"), found.labels)
    assert (tested.folder / "02_GT/TRA/man_track.txt").read_text().startswith("1 0 1 0\n")


def test_masks_hold_the_objects_under_numbers_of_their_own(tested: Outcome, objects: pd.DataFrame) -> None:
    used: set[int] = set()
    for found in (found for found in tested.predictions if found.id.startswith("01")):
        numbers = read_volume(tested.folder / "01_RES" / f"mask{found.id[-3:]}.tif")
        assert (numbers.dtype, numbers.shape) == (np.uint16, SHAPE)
        np.testing.assert_array_equal(numbers > 0, found.labels > 0)
        present = np.unique(numbers[numbers > 0])
        assert not used & set(present.tolist())
        used |= set(present.tolist())
        rows = objects[objects["frame"] == found.id]
        assert list(rows["number"]) == list(present)
        np.testing.assert_allclose(rows["score"], found.scores, atol=1e-6)
        assert list(rows["voxels"]) == [(numbers == number).sum() for number in present]
    assert used == set(range(1, len(used) + 1))


def test_objects_have_volume_extent_and_place_in_micrometres(tested: Outcome, objects: pd.DataFrame) -> None:
    found = tested.predictions[0]
    for number, row in enumerate(objects[objects["frame"] == found.id].to_dict("records"), start=1):
        places = np.argwhere(found.labels == number)
        assert row["class"] == "cell"
        assert row["volume_um3"] == pytest.approx(len(places) * 0.5 * 0.125**2, rel=1e-5)
        for axis, name in enumerate("zyx"):
            extent = np.ptp(places[:, axis]) + 1
            assert row[f"extent_{name}"] == extent
            assert row[f"extent_{name}_um"] == pytest.approx(extent * VOXEL[axis], rel=1e-5)
            assert row[f"centroid_{name}_um"] == pytest.approx(places[:, axis].mean() * VOXEL[axis], abs=1e-3)


def test_metrics_rows_and_the_table_of_frames(tested: Outcome) -> None:
    content = json.loads((tested.folder / "metrics.json").read_text())
    table = pd.read_csv(tested.folder / "per_sample.csv")
    assert (content["num_samples"], content["voxel_size_um"]) == (6, [*VOXEL])
    assert content["split_sha256"] == "f00d"
    assert content["losses"] == {"loss": pytest.approx(1.5)}
    # The metric is a mean over objects, not over frames.
    mean = np.average(table["seg"], weights=table["true"])
    assert content["metrics"]["seg"]["value"] == pytest.approx(mean)
    assert content["metrics"]["seg"]["low"] < mean < content["metrics"]["seg"]["high"]
    cost = 10 * table["missed"] + table["false"] + 5 * table["to_split"]
    np.testing.assert_allclose(table["det"], 1 - (cost / (10 * table["true"])).clip(upper=1))
    rows, groups = read_samples(tested.folder)
    assert groups == [record.group for record in tested.data.records]
    np.testing.assert_array_equal(rows["seg_sum"], tested.rows["seg_sum"])
    assert any(line.startswith(f"test/seg {mean:.4f}") for line in tested.lines)


def test_all_files_are_there_and_trackers_get_the_small_ones(tested: Outcome) -> None:
    files = [
        "calibration_objects.png",
        "metrics.json",
        "objects.csv",
        "per_sample.csv",
        "samples.npz",
        "training_curves.png",
    ]
    sequences = [f"{number}_{kind}" for number in ("01", "02") for kind in ("GT", "RES")]
    bulk = sorted([*sequences, "overlays"])
    assert sorted(path.name for path in tested.folder.iterdir()) == sorted([*files, *bulk, "predictions"])
    assert tested.report.bulk_folders == bulk
    pictures = list(tested.folder.glob("overlays/*/*.png"))
    assert len(pictures) == 6
    for path in [*pictures, *tested.folder.glob("predictions/*.png")]:
        assert read_image(path).std() > 5, path


def test_the_worst_frames_are_shown_and_a_later_process_draws_the_same(tested: Outcome) -> None:
    table = pd.read_csv(tested.folder / "per_sample.csv").sort_values("seg", kind="stable")
    worst = [id_.replace("/", "_") for id_ in table["id"][:4]]
    shown = {path.stem for path in (tested.folder / "predictions").iterdir()}
    assert {f"worst_{number}_{name}" for number, name in enumerate(worst, start=1)} <= shown
    assert len(shown) == 8
    later = Report(tested.folder, scorer=Scorer(), data=tested.data, **OPTIONS)  # type: ignore[arg-type]
    path = tested.folder / "predictions" / f"worst_1_{worst[0]}.png"
    np.testing.assert_array_equal(later.picture(table["id"].iloc[0]), read_image(path))


def test_single_annotated_slices_and_volumes_without_sequence(tmp_path: Path) -> None:
    """Slices keep their numbers; a plain volume has a label map and no truth beside it."""
    write_ctc(tmp_path / "data", sequences=1, frames=3, shape=SHAPE, dense=False, objects=5)
    records, _ = read_ctc(tmp_path / "data", split="sequences")
    plain = replace(records[0], id="mouse/left")
    run_report(tmp_path / "data", tmp_path / "report", [records[1], plain])
    slices = sorted(path.name for path in (tmp_path / "report/01_GT/SEG").iterdir())
    assert slices == ["man_seg_000_001.tif", "man_seg_000_003.tif", "man_seg_000_005.tif"]
    assert read_volume(tmp_path / "report/label_maps/mouse/left.tif").shape == SHAPE
    assert not (tmp_path / "report/mouse_GT").exists()
