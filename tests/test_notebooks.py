"""The notebooks: short cells that call the package, without outputs, and one that runs from top to bottom."""

from __future__ import annotations

import ast
import os
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from configs import composed
from nbformat import NotebookNode

from polymask import cli
from polymask.utils.paths import resolve

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "lesion_pretraining.ipynb"
NUM_PICTURES = 10
OWN_LOGIC = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If, ast.Try, ast.With)
"""What belongs into the package, where it is tested."""


@pytest.fixture
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_not_committed(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count is not None] == []


def test_its_cells_are_short_explained_and_in_seven_sections(notebook: NotebookNode) -> None:
    assert 25 <= len(notebook.cells) <= 30
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"] * (len(notebook.cells) // 2)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = [line for text in texts for line in text.splitlines() if line.startswith("## ")]
    assert [heading[3:5] for heading in headings] == [f"{number}." for number in range(1, 8)]


def test_its_cells_call_the_package_and_have_nothing_of_their_own(notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    for cell in code:
        tree = ast.parse(cell.source)
        assert [node for node in ast.walk(tree) if isinstance(node, OWN_LOGIC)] == []
        assert cell in parameters or len(cell.source.splitlines()) <= 10


def test_its_commands_are_such_as_polymask_takes(notebook: NotebookNode, project: Path) -> None:
    commands = []

    def compose(name: str, words: list[str]) -> SimpleNamespace:
        cli.run(name, [*words, "--cfg=job"])
        commands.append(name)
        return SimpleNamespace(run_name=f"run_{len(commands)}", folder=project, path=project / "encoder.pth")

    names = {"run": compose, "resolve": resolve, "datetime": datetime, "predict_mask": lambda *_, **__: None}
    for cell in notebook.cells:
        for step in ast.parse(cell.source).body if cell.cell_type == "code" else []:
            if isinstance(step, ast.Assign) or ast.unparse(step).startswith("run("):  # no picture is drawn
                exec(ast.unparse(step), names)
    assert len(commands) == sum(cell.source.count("run(") for cell in notebook.cells) > 5


def test_without_options_the_encoder_is_what_the_detector_takes() -> None:
    encoder = composed("experiment=lesions_mae").model
    detector = composed("experiment=lesions_vit_mask_rcnn").model
    assert detector.backbone == f"vit_{encoder.size}_patch{encoder.patch_size}_224"


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(
    notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    source = NOTEBOOK.parents[1] / "src"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("POLYMASK_ROOT", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == NUM_PICTURES
    assert {path.name for path in (tmp_path / "models").iterdir()} >= {
        "final_lesion_segmenter.pth",
        "config.yaml",
        "ssl_vit_backbone.pth",
    }
    (summary,) = (tmp_path / "results" / "summary").glob("*/summary.csv")
    studies = set(pd.read_csv(summary)["study"])
    assert len(studies) == 3
    assert any(study.endswith("weights=null") for study in studies)
    assert any("_autoencoder.pth" in study for study in studies)
