"""The notebooks: short cells that call the package, without outputs, and one that runs from top to bottom."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "lesion_pretraining.ipynb"
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
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 8
    assert (tmp_path / "models" / "final_lesion_segmenter.pth").is_file()
    assert (tmp_path / "models" / "config.yaml").is_file()
    (summary,) = (tmp_path / "results" / "summary").glob("*/summary.csv")
    assert {line.split(",")[0] for line in summary.read_text().splitlines()[1:]} == set()
