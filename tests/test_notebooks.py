"""The notebooks run from top to bottom as they are, and are kept the way that Colab and reviewers want."""

import os
import re
import sys
import time
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
# Their first cell, as the documentation shows it.
(INSTALL,) = re.findall(
    r"^```text\n(from .*?)\n```", (ROOT / "docs/notebooks.md").read_text(), re.DOTALL | re.MULTILINE
)
CLEAN = (
    "strip it: jupyter nbconvert --clear-output --inplace notebooks/*.ipynb, or Clear All Outputs and save"
)
LIMIT = 180  # seconds

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


class ThisPython(AsyncKernelManager):
    """Whatever kernels are registered on a machine, run the interpreter that runs the tests."""

    @property
    def kernel_spec(self):
        return KernelSpec(argv=make_ipkernel_cmd(executable=sys.executable), language="python")


# They compute for long, and are compiled as their readers' are, not as quickly as tests.
LONG = ("3_sweeps", "5_network_norms")


def environment(folder, name):
    """A kernel that imports this checkout and leaves the user's own Jupyter and IPython folders alone."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "IPYTHONDIR": str(folder), "JUPYTER_CONFIG_DIR": str(folder)}
    return os.environ | own | ({"XLA_FLAGS": ""} if name in LONG else {})


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_notebook
def test_a_notebook_runs_within_its_time_and_without_a_warning(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    began = time.monotonic()
    client = NotebookClient(notebook, kernel_manager_class=ThisPython, timeout=LIMIT)
    client.execute(env=environment(tmp_path, path.stem), cwd=str(tmp_path))
    assert time.monotonic() - began < LIMIT

    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not warned
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture was shown"


@each_notebook
def test_a_notebook_is_stored_as_a_source(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        assert not cell.outputs, f"{path.name} holds outputs; {CLEAN}"
        assert cell.execution_count is None, f"{path.name} holds an execution count; {CLEAN}"
        assert not cell.metadata, f"{path.name} holds metadata of a run; {CLEAN}"


@each_notebook
def test_a_notebook_installs_what_it_needs_first_and_links_to_no_place_that_does_not_exist(path):
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert "colab.research.google.com" not in path.read_text()
    assert code_cells(notebook)[0].source == INSTALL
    assert f"notebooks/{path.name}" in (ROOT / "docs/notebooks.md").read_text()
