"""The notebook of examples/ runs from top to bottom, and what is committed was run."""

import getpass
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"
SMALL = {"retrieve.epochs": 10, "retrieve.hidden": 16, "rerank.layers": 0, "rerank.epochs": 2, "label.cache": False}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, toy_llama, toy_labeller, monkeypatch):
    """With toy weights, which are set after the cell tagged ``parameters``: a test downloads nothing."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEALR_HOME", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    toys = SMALL | {"rerank.base": str(toy_llama), "label.model": str(toy_labeller)}
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(f"settings |= {toys!r}"))
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert {".sealr", "mlflow.db"} <= {
        path.name for path in tmp_path.iterdir()
    }  # all state stays in the working folder


def test_the_committed_outputs_are_whole_and_tell_nothing_of_the_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type in ("execute_result", "display_data") for cell in cells for output in cell.outputs)
    outputs = str([cell.outputs for cell in cells])
    hints = ["/home/", "/tmp/", "/root", "/Users/", "\\Users\\", str(Path.home())]
    assert not [hint for hint in hints if hint in outputs]
    assert getpass.getuser() == "root" or getpass.getuser() not in outputs
