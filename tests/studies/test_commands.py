"""analyze and compare as commands: what they write, what MLflow gets, and what a mistake looks like."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from html_page import read_page
from huggingface_hub import ModelCard

from polymask import cli
from polymask.studies.commands import comparison_name
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def finished(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root of one's own with the run `tiny`."""
    root = tmp_path / "root"
    shutil.copytree(trained, root)
    monkeypatch.setattr(paths, "PROJECT_ROOT", root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_analyze_writes_a_report_and_a_run(lesion_folder: Path, project: Path, database: Path) -> None:
    from mlflow import MlflowClient

    options = [f"data.data_dir={lesion_folder}", "data.classes=[MEL,NV,BKL]", "data.image_size=64"]
    result = cli.run("analyze", [*options, "run_name=look", "num_samples=4", "num_augmented=2"])
    assert result.folder == project / "results/analysis/look"
    names = {path.name for path in result.folder.iterdir()}
    assert {"analysis.txt", "statistics.csv", "samples.png", "augmentations.png", "classes.png"} <= names
    assert "report.html" in names
    client = MlflowClient(f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("polymask").experiment_id])
    assert run.data.metrics["data/num_images"] == 24
    assert run.data.tags["study"] == "analyze"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == names
    again = cli.run("analyze", [*options, "run_name=look", "num_samples=4", "tracker=none"])
    assert again.folder == result.folder  # an earlier report may be replaced


def test_the_page_of_a_test_shows_the_numbers_of_its_file(trained: Path) -> None:
    folder = trained / "results" / "test" / "tiny"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    page = read_page(folder / "report.html")
    cards = {
        each.attributes["data-metric"]: each for each in page.all("li") if "data-metric" in each.attributes
    }
    assert {"dice_lesion_image", "balanced_accuracy"} <= cards.keys()
    for name, card in cards.items():
        values = [float(value.attributes["value"]) for value in card.all("data")]
        assert values == [metrics[name][end] for end in ("value", "low", "high")]
    assert ModelCard((folder / "model_card.md").read_text()).data.model_name == "tiny"


def test_compare_of_a_run_with_itself_finds_no_difference(finished: Path) -> None:
    result = cli.run("compare", ["tiny", "tiny", "num_replicates=50", "num_permutations=50", "tracker=none"])
    assert result.folder == finished / "results/comparison/tiny_vs_tiny"
    assert read_page(result.folder / "report.html").one("h1").text == "tiny and tiny"
    with (result.folder / "comparison.csv").open(newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    stored = json.loads((finished / "results/test/tiny/metrics.json").read_text())["metrics"]
    for name in ("dice_lesion_image", "balanced_accuracy", "pixel_accuracy_pooled"):
        assert float(rows[name]["a"]) == pytest.approx(stored[name]["value"])
        assert [float(rows[name][key]) for key in ("difference", "low", "high", "p_value")] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny"], "run_b= is needed; add it to the command, e.g. run_b=my_run"),
        (["tiny", "tiny", "tiny"], "tiny is named more than once among tiny, tiny, tiny: name each run once"),
        (["tiny", "tiny", "tinny"], "tinny"),
        (["tiny", "tinny"], "tinny"),
        (["tiny", "tiny", "num_picture=3"], "Did you mean 'num_pictures'?"),
        (["tiny", "tiny", "test_dir=nowhere"], "has no samples.npz; run polymask test run_name=tiny first"),
        (["tiny", "tiny", "num_replicates=0"], "num_replicates=0"),
        (["tiny", "tiny", "data_dir=nowhere"], "If they lie elsewhere, give data_dir=."),
    ],
)
def test_mistakes_of_compare_are_one_line(
    arguments: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = fails(capsys, "compare", *arguments, "tracker=none")
    assert message in printed
    assert printed.count("\n") == 1
    assert not list((finished / "results").glob("comparison/*"))


def test_compare_of_several_runs(finished: Path) -> None:
    checkpoints, tests = finished / "models" / "checkpoints", finished / "results" / "test"
    for name in ("second", "third"):
        torch.save(load_checkpoint(checkpoints / "tiny.pt") | {"run_name": name}, checkpoints / f"{name}.pt")
        shutil.copytree(tests / "tiny", tests / name)
    options = ["num_replicates=20", "num_permutations=20", "tracker=none"]
    result = cli.run("compare", ["tiny", "second", "third", *options])
    assert result.folder == finished / "results/comparison/tiny_vs_second_and_third"
    assert {path.name for path in result.folder.iterdir() if path.is_dir()} == {"second", "third"}
    assert read_page(result.folder / "report.html").one("h1").text == "tiny and second, third"
    assert read_page(result.folder / "third" / "report.html").one("h1").text == "tiny and third"
    keys = {f"{run}/{metric}" for run in ("second", "third") for metric in _tested_metrics(result.folder)}
    assert result.metrics.keys() == {f"{what}/{key}" for what in ("difference", "p_value") for key in keys}
    assert result.metrics["difference/third/dice_lesion_image"] == 0
    assert result.metrics["p_value/second/dice_lesion_image"] == 1


def _tested_metrics(folder: Path) -> set[str]:
    with (folder / "comparison.csv").open(newline="") as file:
        return {row["metric"] for row in csv.DictReader(file)}


def test_the_name_of_a_comparison() -> None:
    assert comparison_name(["a", "b" * 100]) == "a_vs_" + "b" * 100
    assert comparison_name(["a", "b", "c", "d"]) == "a_vs_b_and_c_and_d"
    long = [comparison_name(["a", *(f"{what}_{number}" * 3 for number in range(9))]) for what in "xy"]
    assert all(re.fullmatch("a_vs_9_others_[0-9a-f]{6}", name) for name in long)
    assert long[0] != long[1]


def test_operands_may_hold_characters_of_the_command_line_grammar(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "run+1,2" in fails(capsys, "compare", "run+1,2", "tiny", "tracker=none")


_PROBE = """
import sys
from torch import nn

built, build = [], nn.Module.__init__

def watched(self, *arguments, **options):
    built.append(type(self).__name__)
    build(self, *arguments, **options)

nn.Module.__init__ = watched
from html_page import read_page
from huggingface_hub import ModelCard

from polymask import cli

quick = ["num_replicates=20", "tracker=none"]
cli.run("compare", ["tiny", "tiny", *quick])
cli.run("summarize", ["tiny", *quick])
cli.run("review", ["tiny", "num_pictures=2", "tracker=none"])
assert not built, built
nn.Linear(1, 1)
assert built == ["Linear"]
libraries = {name.partition(".")[0] for name in sys.modules}
print(sorted(libraries & {"segmentation_models_pytorch", "timm", "torchvision", "torchmetrics"}))
"""


def test_compare_summarize_and_review_build_no_network(finished: Path) -> None:
    environment = os.environ | {"POLYMASK_ROOT": str(finished), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
