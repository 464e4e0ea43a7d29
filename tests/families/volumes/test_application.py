"""Objects of new volumes, found by a network that sees what is bright: files, tables, sequences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ctc_metrics.scripts.validate import validate_sequence
from scipy.ndimage import find_objects, label
from torch import Tensor, nn
from volume_files import write_ctc, write_stack

from polymask.errors import UserError
from polymask.families.volumes.application import Application
from polymask.families.volumes.family import Family
from polymask.families.volumes.task import Task
from polymask.inference.folder import predict_files
from polymask.inference.inputs import find_cases
from polymask.inference.predictor import Predictor

VOXEL = [0.5, 0.25, 0.125]
FIRST, SECOND = (slice(1, 5), slice(6, 20), slice(8, 26)), (slice(2, 6), slice(26, 38), slice(30, 44))


class BrightSections(nn.Module):
    """Finds the bright rectangles of each slice; says how many slices it has asked for."""

    slices = 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.asked: list[int] = []

    def predict_volume(self, slices: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        for number, image in enumerate(slices):
            self.asked.append(number)
            pieces = find_objects(label(image.numpy() > 0.5)[0])
            corners = [(x.start, y.start, x.stop, y.stop) for y, x in pieces]
            yield {
                "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
                "labels": torch.zeros(len(corners), dtype=torch.int64),
                "scores": torch.linspace(0.9, 0.8, len(corners)),
                "masks": torch.ones(len(corners), 28, 28),
            }


def write_volume(path: Path, boxes: Iterable[tuple[slice, ...]], shape: tuple[int, int, int]) -> np.ndarray:
    volume = np.random.default_rng(0).integers(90, 110, shape).astype(np.uint16)
    for box in boxes:
        volume[box] += 3000
    path.parent.mkdir(parents=True, exist_ok=True)
    write_stack(path, volume)
    return volume


def make(root: Path, **chosen: Any) -> Predictor:
    weights = root / "weights.pt"
    weights.write_bytes(b"weights")
    family = Family(class_names=["cell"], voxel_size=VOXEL)
    options = {key.replace("__", "."): value for key, value in chosen.items()}
    return Predictor(
        task=Task(model=BrightSections(), loss=None, linking=family.linking),
        application=family.application({}, options),
        run_name="bright",
        path=weights,
        device="cpu",
        precision="fp32",
    )


def infer(source: Path, folder: Path, files: list[str] | None = None, **options: Any) -> Any:
    predictor = make(source.parent)
    cases = [Path(file) for file in files or find_cases(predictor.application, source)]
    return predict_files(predictor, source, cases, folder, num_workers=0, **options)


def read_labels(path: Path) -> np.ndarray:
    return np.stack(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def plain_folder(tmp_path: Path) -> Path:
    """Volumes of different sizes: two objects, one, none."""
    folder = tmp_path / "volumes"
    write_volume(folder / "two.tif", [FIRST, SECOND], (7, 48, 56))
    write_volume(folder / "sub" / "one.tiff", [FIRST], (6, 40, 44))
    write_stack(folder / "sub" / "none.tif", np.full((3, 33, 35), 200, np.uint8))
    return folder


def test_a_folder_of_volumes_of_different_sizes(plain_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = infer(plain_folder, out)
    assert (summary.predicted, summary.failed) == (3, {})
    table = pd.read_csv(out / "predictions.csv", index_col="file")
    assert table["num_objects"].to_dict() == {"sub/none.tif": 0, "sub/one.tiff": 1, "two.tif": 2}
    labels = read_labels(out / "label_maps" / "two.tif")
    assert (labels.dtype, labels.shape) == (np.uint16, (7, 48, 56))
    objects = pd.read_csv(out / "objects.csv")
    assert objects["frame"].tolist() == ["sub/one.tiff", "two.tif", "two.tif"]
    for row, box in zip(objects.to_dict("records")[1:], (FIRST, SECOND), strict=True):
        whole = np.zeros_like(labels, bool)
        whole[box] = True
        own = labels == row["number"]
        assert (own & whole).sum() / (own | whole).sum() > 0.85  # a box's mask fades out at its border
        assert row["voxels"] == own.sum()
        assert row["volume_um3"] == pytest.approx(own.sum() * np.prod(VOXEL), rel=1e-5)
        places = [(side.start + side.stop - 1) / 2 * edge for side, edge in zip(box, VOXEL, strict=True)]
        found = [row[f"centroid_{axis}_um"] for axis in "zyx"]
        np.testing.assert_allclose(found, places, atol=0.5 * max(VOXEL[1:]))
        assert row["extent_z_um"] == (box[0].stop - box[0].start) * VOXEL[0]
        assert row["score"] == pytest.approx(0.9, abs=0.1)
    assert cv2.imread(str(out / "overlays" / "two.png")).std() > 5
    assert sorted(path.name for path in out.iterdir()) == [
        "inference.json",
        "label_maps",
        "objects",
        "objects.csv",
        "overlays",
        "predictions.csv",
    ]


def test_sequences_of_the_challenge_give_its_names_and_tracks(tmp_path: Path) -> None:
    data = write_ctc(tmp_path / "data", frames=3, shape=(6, 48, 48))
    out = tmp_path / "out"
    assert infer(data, out).predicted == 6  # and no truth is taken for a volume
    for sequence in ("01", "02"):
        names = sorted(path.name for path in (out / f"{sequence}_RES").iterdir())
        assert names == ["mask000.tif", "mask001.tif", "mask002.tif", "res_track.txt"]
        assert validate_sequence(str(out / f"{sequence}_RES"), threads=1)["Valid"]
        seen = [np.unique(read_labels(out / f"{sequence}_RES" / name))[1:] for name in names[:3]]
        assert np.concatenate(seen).tolist() == list(range(1, 1 + sum(map(len, seen))))
        objects = pd.read_csv(out / "objects.csv")
        own = objects[objects["frame"].str.startswith(sequence)]
        assert own["number"].tolist() == np.concatenate(seen).tolist()
    assert not (out / "label_maps").exists()
    # The folder of a sequence itself has the same names.
    assert infer(data / "02", tmp_path / "alone").predicted == 3
    for name in ("mask001.tif", "res_track.txt"):
        alone = tmp_path / "alone" / "02_RES" / name
        assert alone.read_bytes() == (out / "02_RES" / name).read_bytes()


@pytest.mark.parametrize("layout", ["plain", "challenge"])
def test_an_inference_that_goes_on_ends_as_one_that_was_not_interrupted(
    layout: str, plain_folder: Path, tmp_path: Path
) -> None:
    challenge = write_ctc(tmp_path / "data", frames=3, shape=(6, 48, 48))
    source, late = (plain_folder, "two.tif") if layout == "plain" else (challenge, "02/t001.tif")
    infer(source, tmp_path / "whole", overlay=False)
    assert infer(source, tmp_path / "halves", [late], overlay=False).predicted == 1
    (tmp_path / "halves" / "predictions.csv").rename(tmp_path / "halves" / "predictions.partial.csv")
    summary = infer(source, tmp_path / "halves", overlay=False)
    assert summary.skipped == 1
    assert files_below(tmp_path / "halves") == files_below(tmp_path / "whole")


def test_overwriting_leaves_no_mask_of_earlier_volumes(tmp_path: Path) -> None:
    data, out = write_ctc(tmp_path / "data", frames=3, shape=(6, 48, 48)), tmp_path / "out"
    infer(data, out, overlay=False)
    (data / "02" / "t002.tif").unlink()
    assert infer(data, out, overlay=False, overwrite=True).predicted == 5
    names = [path.name for path in sorted((out / "02_RES").iterdir())]
    assert names == ["mask000.tif", "mask001.tif", "res_track.txt"]
    assert validate_sequence(str(out / "02_RES"), threads=1)["Valid"]


def test_files_that_are_no_volumes_are_told_and_the_others_are_done(
    plain_folder: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(plain_folder / "flat.tif"), np.zeros((40, 40), np.uint16))
    cv2.imwritemulti(str(plain_folder / "rgb.tif"), [np.zeros((40, 40, 3), np.uint8)] * 3)
    whole = (plain_folder / "two.tif").read_bytes()
    (plain_folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    summary = infer(plain_folder, tmp_path / "out", overlay=False)
    assert summary.predicted == 3
    assert summary.failed.keys() == {"flat.tif", "rgb.tif", "cut.tif"}
    assert "2-D image" in summary.failed["flat.tif"]
    assert "3 channels" in summary.failed["rgb.tif"]
    failed = pd.read_csv(tmp_path / "out" / "failed.csv")
    assert sorted(failed["file"]) == sorted(summary.failed)


def test_a_folder_without_volumes_is_told(tmp_path: Path) -> None:
    data = write_ctc(tmp_path / "data", sequences=1)
    (data / "01").rename(tmp_path / "elsewhere")  # its truth is left
    with pytest.raises(UserError, match=r"holds no volume; looked for \.tif, \.tiff outside of folders such"):
        find_cases(make(tmp_path).application, data)


def test_an_array_gives_what_its_file_gives(plain_folder: Path, tmp_path: Path) -> None:
    predictor = make(tmp_path)
    volume = read_labels(plain_folder / "two.tif")
    expected = predictor.predict(plain_folder / "two.tif")
    for found in (predictor.predict(volume), *predictor.predict([volume, volume[::-1]])[:1]):
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert len(expected.scores) == 2
    with pytest.raises(
        UserError, match=r"\(48, 56\) of uint16; give \(slices, height, width\) of uint8 or uin"
    ):
        predictor.predict(volume[0])
    with pytest.raises(UserError, match=r"\(7, 48, 56\) of float64; give"):
        predictor.predict(volume / 2)


def test_slices_are_read_when_the_network_wants_them(plain_folder: Path, tmp_path: Path) -> None:
    """And no volume is in memory: of a long one, pages go through one after the other."""
    predictor = make(tmp_path)
    application, seen = predictor.application, []
    case, _ = application.read(plain_folder / "two.tif")

    class Watched(type(case.stack)):  # type: ignore[misc]
        def pages(self) -> Iterator[np.ndarray]:
            for number, page in enumerate(super().pages()):
                seen.append((number, len(predictor.task.model.asked)))
                yield page

    stack = Watched(case.stack.path, case.stack.shape, case.stack.bits)
    batch = application.collate(["two"], [type(case)(stack=stack, window=case.window, draw=False)])
    (found,) = predictor.predict_batch(batch)
    assert seen == [(number, number) for number in range(7)]
    assert isinstance(found.labels, np.memmap)


def test_values_of_an_inference_take_the_place_of_those_of_training(
    plain_folder: Path, tmp_path: Path
) -> None:
    changed = {"task__linking__convex": False, "task__linking__min_slices": 5, "task__score_threshold": 0.5}
    application = make(tmp_path, **changed).application
    assert isinstance(application, Application)
    assert (application.linking.convex, application.linking.min_slices) == (False, 5)
    # Of the same values as in training nothing is said: the results are the same.
    assert application.settings.keys() == {"task.linking"}
    assert make(tmp_path, task__linking__gap=1).application.settings == {}
    found = make(tmp_path, **changed).predict(plain_folder / "two.tif")
    assert len(found.scores) == 0  # objects of four slices
    later = make(tmp_path, data__voxel_size=[1, 1, 2]).application
    assert later.settings == {}  # results of both may lie in one folder
    infer(plain_folder, tmp_path / "out")
    later.finish(tmp_path / "out")
    objects = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert (objects["volume_um3"] == 2 * objects["voxels"]).all()
    with pytest.raises(UserError, match=r"task\.linking\.min_iou=2 is not valid"):
        make(tmp_path, task__linking__min_iou=2)
    with pytest.raises(UserError, match=r"data\.voxel_size=\[1, 2\] is not valid; give three lengths"):
        make(tmp_path, data__voxel_size=[1, 2])


def test_the_settings_of_the_folder_are_those_of_its_results(plain_folder: Path, tmp_path: Path) -> None:
    infer(plain_folder, tmp_path / "out")
    other = make(tmp_path, task__linking__convex=False)
    with pytest.raises(UserError, match=r"made with another task\.linking;"):
        predict_files(other, plain_folder, [Path("two.tif")], tmp_path / "out", num_workers=0)
    settings = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert "task.linking" not in settings
