"""The notebooks: no functions, no outputs, and every cell runs on a small export."""

import ast
from pathlib import Path

import nbclient
import nbformat
import pytest
from conftest import ROOT, tracked
from exporting import write_export, write_probe

NOTEBOOKS = tracked("analysis/*.ipynb")


def code(path: Path) -> list[str]:
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return ["\n".join(line for line in cell.split("\n") if line[:1] != "%") for cell in cells]


def test_all_three_are_there() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["ablation_tables", "explore_sweep", "figures"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_thin_and_stripped(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code(path):
        assert not [node for node in ast.walk(ast.parse(cell)) if isinstance(node, defining)]
        assert len(cell.splitlines()) <= 15
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three in one kernel, its names forgotten in between."""
    write_probe(write_export(tmp_path))
    monkeypatch.setenv("HYMBA_LAB_RESULTS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    whole = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        whole.cells += nbformat.read(path, 4).cells
        whole.cells.append(nbformat.v4.new_code_cell("%reset -f"))
    client = nbclient.NotebookClient(
        whole, timeout=120, resources={"metadata": {"path": str(ROOT / "analysis")}}
    )
    client.execute()
    made = [kind for cell in whole.cells for out in cell.get("outputs", []) for kind in _kinds(out)]
    assert "stderr" not in made
    assert {"text/html", "text/markdown", "image/png"} <= set(made)


def _kinds(output: nbformat.NotebookNode) -> list[str]:
    return [output.name] if output.output_type == "stream" else list(output.data)
