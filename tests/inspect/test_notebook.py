"""The notebook as a reader runs it: from top to bottom, on a small finished run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "latents.ipynb"


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in _code(notebook):
        assert not cell.outputs and cell.execution_count is None


def test_every_cell_is_short_and_introduced():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    for before, cell in zip(cells[2:], cells[3:], strict=False):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 15
            assert before.cell_type == "markdown"


@pytest.fixture(scope="module")
def executed(finished_quickstart):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPER_META_WORKDIR", str(finished_quickstart))
        client.execute()
    return notebook


def test_every_cell_runs(executed):
    counts = [cell.execution_count for cell in _code(executed)]
    assert counts == list(range(1, len(counts) + 1))


def test_every_figure_is_there(executed):
    """A cell that ends in a drawing shows one, and there are all eight."""
    drawings = 0
    for cell in _code(executed):
        shown = [out for out in cell.outputs if "image/png" in out.get("data", {})]
        draws = "draw_" in cell.source or "Image(" in cell.source.split("import")[-1]
        assert len(shown) == draws, cell.source
        drawings += draws
    assert drawings == 8


def test_the_typed_sentence_has_neighbours(executed):
    (cell,) = (cell for cell in _code(executed) if "SENTENCE =" in cell.source)
    text = "".join(out.text for out in cell.outputs if out.output_type == "stream")
    assert "Which colour does the seven have?" in text
    assert len(text.strip().splitlines()) == 3 + 6
