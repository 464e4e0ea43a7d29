from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polymask.errors import UserError
from polymask.tracking import tensorboard_tracker
from polymask.tracking.tensorboard_tracker import TensorBoardTracker


def start(tracker: TensorBoardTracker, name: str = "first", *, reopen: bool = True, **params: Any) -> None:
    tracker.start(name, params=params, tags={"device": "cpu"}, run_id="", reopen=reopen)


def reader(folder: Path) -> Any:
    """What TensorBoard itself reads of a folder: each part of a run is one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in reader(folder).Scalars(name)]


def texts(folder: Path) -> dict[str, list[str]]:
    # The one that knows texts; it is what the application reads with.
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: [event.tensor_proto.string_val[0].decode() for event in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }


def points(*steps: int, epoch: int) -> list[dict[str, float]]:
    return [{"step": step, "epoch": epoch, "time": 1e9 + step, "step/train/loss": 1 / step} for step in steps]


def write_picture(path: Path, value: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(project: Path) -> Path:
    return project / "outputs" / "tensorboard" / "first"


def test_params_metrics_points_and_pictures_arrive(project: Path, folder: Path) -> None:
    tracker = TensorBoardTracker()
    start(tracker, **{"model.encoder_name": "resnet18", "data.group": "a|b\nc", "empty": None})
    tracker.log_metrics({"train/loss": 2.5, "val/loss": math.nan}, step=1)
    tracker.log_steps(points(10, 20, epoch=1))
    tracker.log_artifact(write_picture(project / "previews" / "epoch_0001.jpg", 90), "previews")
    tracker.log_artifact(write_picture(project / "roc.png", 10))
    tracker.log_artifact(project / "previews", "previews")
    tracker.log_artifact(project / "no picture.csv", "run")
    tracker.log_metrics({"train/loss": 1.5, "val/loss": 3.0}, step=2)
    tracker.log_metrics({"test/dice": 0.75}, step=0)
    tracker.finish("FINISHED")

    assert scalars(folder, "train/loss") == [(1, 2.5), (2, 1.5)]
    assert scalars(folder, "val/loss") == [(2, 3.0)]
    assert scalars(folder / "steps", "step/train/loss") == [(10, 0.1), (20, 0.05)]
    assert [event.wall_time for event in reader(folder / "steps").Scalars("step/train/loss")] == [
        1e9 + 10,
        1e9 + 20,
    ]
    assert scalars(folder / "summary", "test/dice") == [(0, 0.75)]
    (params,), (tags,) = texts(folder / "summary").values()
    assert "| model.encoder_name | resnet18 |" in params.splitlines()
    assert "| data.group | a\\|b c |" in params.splitlines()
    assert "| device | cpu |" in tags.splitlines()
    (preview,) = reader(folder / "previews").Images("previews")
    assert (preview.step, preview.width, preview.height) == (1, 6, 4)
    assert [event.step for event in reader(folder / "summary").Images("roc")] == [0]
    assert (tracker.run_id, list(tracker.places())) == ("", ["TensorBoard"])


def test_a_resumed_run_goes_on_without_double_points(folder: Path, project: Path) -> None:
    tracker = TensorBoardTracker()
    start(tracker, epochs=2)
    for epoch in (1, 2):
        tracker.log_metrics({"val/loss": 1 / epoch}, step=epoch)
        tracker.log_steps(points(20 * epoch - 10, 20 * epoch, epoch=epoch))
        tracker.log_artifact(write_picture(project / f"{epoch}.jpg", epoch), "previews")
    again = TensorBoardTracker()  # the first was killed: its files were never closed
    start(again, epochs=3)
    for epoch in (2, 3):  # a resumed run says the newest epoch once more
        again.log_metrics({"val/loss": 1 / epoch}, step=epoch)
        again.log_steps(points(20 * epoch - 10, 20 * epoch, epoch=epoch))
    again.log_artifact(write_picture(project / "3.jpg", 3), "previews")
    again.finish("FINISHED")
    tracker.finish("KILLED")
    assert scalars(folder, "val/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert scalars(folder / "steps", "step/train/loss") == [(n, 1 / n) for n in (10, 20, 30, 40, 50, 60)]
    assert [event.step for event in reader(folder / "previews").Images("previews")] == [1, 2, 3]
    (params,) = texts(folder / "summary")["params/text_summary"]
    assert "| epochs | 3 |" in params


def test_a_test_replaces_the_test_before_and_nothing_else(folder: Path) -> None:
    tracker = TensorBoardTracker()
    start(tracker)
    tracker.log_metrics({"val/loss": 0.5}, step=1)
    tracker.log_metrics({"test/dice": 0.25}, step=0)
    tracker.finish("FINISHED")
    later = TensorBoardTracker()
    start(later, reopen=False)
    later.finish(None)
    assert scalars(folder / "summary", "test/dice") == [(0, 0.25)]
    start(later, reopen=False)
    later.log_metrics({"test/dice": 0.5}, step=0)
    later.finish(None)
    assert scalars(folder / "summary", "test/dice") == [(0, 0.5)]
    assert scalars(folder, "val/loss") == [(1, 0.5)]


def test_a_new_run_does_not_show_what_a_deleted_one_of_its_name_left(folder: Path) -> None:
    for every in (5, 10):
        tracker = TensorBoardTracker()
        start(tracker)
        tracker.log_metrics({"val/loss": float(every)}, step=1)
        tracker.log_steps(points(every, 20, epoch=1))
        tracker.finish("FINISHED")
    assert scalars(folder, "val/loss") == [(1, 10.0)]
    assert scalars(folder / "steps", "step/train/loss") == [(10, 0.1), (20, 0.05)]


def test_a_place_that_takes_nothing_is_said_once_and_used_again_when_it_does(
    project: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    tracker = TensorBoardTracker()
    start(tracker)
    tracker.log_metrics({"val/loss": 1.0}, step=1)
    tracker.log_artifact(project / "gone.png")
    assert caplog.text.count("TensorBoard takes no records in") == 1
    folder.unlink()
    tracker.log_metrics({"val/loss": 0.5}, step=2)
    tracker.finish("FINISHED")
    assert scalars(folder, "val/loss") == [(2, 0.5)]


def test_without_tensorboard_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard_tracker, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'polymask\[tensorboard\]', or choose tracker=mlflow"):
        TensorBoardTracker()
