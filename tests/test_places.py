"""A checkpoint does not choose where on this machine something is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow_store import open_store
from strangers import checkpoint_of, put, run, write_changed

from polymask.places import keep_inside
from polymask.training.checkpoint import load_checkpoint

KEYS = [
    "local_save_dir",
    "data.cache_dir",
    "data.reader.memory_dir",
    "tracker.folder",
    "tracker.tensorboard.folder",
]


def moved(key: str, value: Any, *, reader: str = "x") -> tuple[Any, dict[str, Any]]:
    """Return what stands in the place afterwards, and what was replaced."""
    config: dict[str, Any] = {
        "data": {"reader": {"_target_": reader}},
        "tracker": {"mlflow": {}, "tensorboard": {}},
    }
    put(config, key, value)
    replaced = keep_inside(config)
    for part in key.split("."):
        config = config[part]
    return config, replaced


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "value", ["/scratch/x", "../x", "a/../../x", "~/x", "~nobody_of_that_name/x", 5, ["/x"], "a\0"]
)
def test_places_outside_are_replaced(key: str, value: Any, project: Path) -> None:
    found, replaced = moved(key, value)
    assert found in (None, ".cache/samples", ".cache/pairs", "outputs/tensorboard")
    assert replaced == {key: value}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, "results/a", ".cache/other", "PROJECT/x", "a/../b"])
def test_places_inside_are_kept(key: str, value: Any, project: Path) -> None:
    value = value and value.replace("PROJECT", str(project))
    assert moved(key, value) == (value, {})


def test_a_link_that_the_user_put_into_the_project_is_inside(project: Path, tmp_path_factory: Any) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    (project / ".cache").symlink_to(scratch)
    assert moved("data.cache_dir", ".cache/samples")[1] == {}
    assert moved("data.cache_dir", str(scratch / "samples"))[1] == {
        "data.cache_dir": str(scratch / "samples")
    }


@pytest.mark.parametrize(
    ("uri", "is_kept"),
    [
        ("sqlite:///mlruns/mlflow.db", True),
        ("sqlite:////etc/x.db", False),
        ("sqlite:///../x.db", False),
        ("sqlite:///file:/tmp/x.db?uri=true", False),
        ("sqlite:///mlruns/a.db?uri=true", False),
        ("http://stranger.example/mlflow", False),
        ("file:///tmp/x", False),
        ("databricks", False),
        ("https://mlflow.lab:5000", False),
    ],
)
def test_a_tracker_is_kept_when_it_is_a_file_of_the_project(uri: str, is_kept: bool, project: Path) -> None:
    for key in ("tracker.tracking_uri", "tracker.mlflow.tracking_uri"):
        assert moved(key, uri) == ((uri, {}) if is_kept else ("sqlite:///mlruns/mlflow.db", {key: uri}))


def test_what_the_user_trusts_is_inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMASK_TRUSTED", "mypackage,/scratch/me,https://mlflow.lab:5000")
    assert moved("data.cache_dir", "/scratch/me/cache")[1] == {}
    assert moved("data.cache_dir", "/scratch/me_too")[1] != {}
    assert moved("data.cache_dir", "/scratch/me/../you")[1] != {}
    assert moved("tracker.tracking_uri", "https://mlflow.lab:5000")[1] == {}
    assert moved("tracker.tracking_uri", "https://mlflow.lab:50001")[1] != {}
    assert moved("tracker.tracking_uri", "sqlite:////scratch/me/mlflow.db")[1] == {}


def test_data_are_drawn_inside_only_but_read_anywhere(project: Path, tmp_path_factory: Any) -> None:
    drawing, there = "polymask.data.demo.read_demo", tmp_path_factory.mktemp("there")
    assert moved("data.data_dir", "/elsewhere/demo", reader=drawing)[0] == "data/demo"
    assert moved("data.data_dir", str(there), reader=drawing)[1] == {}
    assert moved("data.data_dir", "/elsewhere/ham", reader="polymask.data.sources.read_ham10000")[1] == {}


@pytest.fixture
def outside(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture
def stranger(trained: Path, project: Path, outside: Path) -> Path:
    """A run whose configuration writes everything outside."""

    def change(content: dict[str, Any]) -> None:
        for key in ("local_save_dir", "data.cache_dir"):
            put(content["config"], key, str(outside / key))
        uri = f"sqlite:///{outside / 'mlflow.db'}"
        tracker = {"_target_": "polymask.tracking.mlflow_tracker.MlflowTracker", "tracking_uri": uri}
        put(content["config"], "tracker", {**tracker, "experiment": "x"})

    return write_changed(project, checkpoint_of(trained, whole=True), change)


def test_a_test_writes_into_the_project_and_says_so(
    stranger: Path, project: Path, database: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_checkpoint(stranger)["moved"].keys() == {
        "local_save_dir",
        "data.cache_dir",
        "tracker.tracking_uri",
    }
    result = run("test", "run_name=evil")
    assert result.folder == project / "results" / "test" / "evil"
    client = open_store(f"sqlite:///{database}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [tested.info.run_name for tested in client.search_runs(experiments)] == ["evil"]
    assert list(outside.iterdir()) == []
    printed = capsys.readouterr().out
    assert (
        f"data.cache_dir={outside / 'data.cache_dir'} of the checkpoint lies outside of the project"
        in printed
    )
    assert "local_save_dir" in printed


def test_what_is_typed_again_is_used(
    stranger: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("test", "run_name=evil", "tracker=none", f"local_save_dir={outside / 'mine'}")
    assert result.folder == outside / "mine" / "evil"
    assert [path.name for path in outside.iterdir()] == ["mine"]
    assert "local_save_dir" not in capsys.readouterr().out
