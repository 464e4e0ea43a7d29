from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from polymask import cli
from polymask.errors import UserError
from polymask.tracking.base import NoTracker
from polymask.tracking.several import SeveralTrackers
from polymask.training.checkpoint import load_checkpoint
from polymask.words import joined_trackers


class Broken:
    """Raises whatever is asked of it."""

    run_id = ""

    def __getattr__(self, name: str) -> Any:
        raise OSError(f"{name} is out of order")


class Recorder(NoTracker):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, run_name: str, *, run_id: str, **about: Any) -> None:
        self.run_id = run_id or "its own"
        self.calls.append(run_name)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((dict(metrics), step))

    def places(self) -> dict[str, str]:
        return {"recorder": "here"}


def test_a_broken_tracker_is_said_once_and_keeps_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    both = SeveralTrackers(broken=Broken(), recorder=recorder)  # type: ignore[arg-type]
    assert both.run_id == ""
    both.keep(Path("outbox"))
    both.start("run", params={}, tags={}, run_id="")
    both.log_metrics({"val/loss": 0.5}, step=1)
    both.log_steps([])
    both.log_artifact(Path("a.png"))
    both.set_tags({"a": "b"})
    both.adopt(["x"])
    both.finish("FINISHED")
    assert recorder.calls == ["run", ({"val/loss": 0.5}, 1)]
    assert both.run_id == "its own"
    assert caplog.messages == ["tracker broken takes no records (keep is out of order); the run goes on."]


@pytest.mark.parametrize(
    ("typed", "joined"),
    [
        ("tracker=[mlflow,tensorboard]", "tracker=mlflow_tensorboard"),
        ("tracker=[tensorboard, mlflow]", "tracker=mlflow_tensorboard"),
        ("tracker=[mlflow]", "tracker=mlflow"),
        ("tracker=none,[tensorboard,mlflow]", "tracker=none,mlflow_tensorboard"),
        ("tracker=mlflow", "tracker=mlflow"),
        ("data.classes=[b,a]", "data.classes=[b,a]"),
    ],
)
def test_names_of_trackers_in_brackets_are_one_option(typed: str, joined: str) -> None:
    assert joined_trackers([typed]) == [joined]


def test_a_tracker_that_does_not_exist_is_told_in_one_line(project: Path) -> None:
    with pytest.raises(UserError, match=r"tracker=mlflow_tensorbord is unknown\. Did you mean 'mlflow_tens"):
        cli.run("train", ["tracker=[mlflow,tensorbord]", "data=demo"])


def test_a_resumed_run_has_every_epoch_and_point_once_in_each_tracker(
    project: Path, lesion_folder: Path, client: Any
) -> None:
    options = [
        f"data.data_dir={lesion_folder}", "data.classes=[MEL,NV,BKL]", "data.image_size=32",
        "data.batch_size=5", "data.num_workers=0", "transforms=flip_jitter",
        "model.encoder_name=tu-test_resnet", "model.encoder_weights=null", "trainer.device=cpu",
        "trainer.threads=1", "test_after_training=false", "scheduler=milestones", "scheduler.milestones=[5]",
        "trainer.steps_per_epoch=4", "trainer.log_every_steps=3",
    ]  # fmt: skip
    whole = cli.run("train", [*options, "tracker=none", "run_name=whole", "epochs=2"])
    cli.run("train", [*options, "tracker=[mlflow,tensorboard]", "run_name=parts", "epochs=1"])
    with pytest.raises(UserError, match=r"resume keeps the run's trainer\.steps_per_epoch=4 and cannot"):
        cli.run("train", ["resume=true", "run_name=parts", "trainer.steps_per_epoch=5"])
    parts = cli.run("train", ["resume=true", "run_name=parts", "epochs=2"])

    found = parts.task.state_dict()
    assert all(bool((found[name] == value).all()) for name, value in whole.task.state_dict().items())
    points = parts.state.points
    assert [point["step"] for point in points] == [3, 6]  # the second window began in the first epoch
    assert [point["step/train/loss"] for point in points] == [
        point["step/train/loss"] for point in whole.state.points
    ]
    tables = sorted(project.glob("outputs/*/*/metrics_steps.csv"))
    assert tables[0].read_text().count("\n") == tables[-1].read_text().count("\n") == 3

    folder = project / "outputs" / "tensorboard" / "parts"
    epochs, steps = (EventAccumulator(str(place)).Reload() for place in (folder, folder / "steps"))
    assert [event.step for event in epochs.Scalars("val/loss")] == [1, 2]
    assert [(event.step, event.value) for event in steps.Scalars("step/train/loss")] == [
        (point["step"], pytest.approx(point["step/train/loss"])) for point in points
    ]
    last = load_checkpoint(project / "models" / "checkpoints" / "parts.last.pt")
    in_mlflow = client.get_metric_history(last["tracker_run_id"], "step/train/loss")
    assert [(one.step, one.value) for one in in_mlflow] == [
        (point["step"], point["step/train/loss"]) for point in points
    ]
