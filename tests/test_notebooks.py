"""The notebooks run from top to bottom as they are, and hold what they print and draw."""

import copy
import re
import time

import nbformat
import pytest

from tests.store_notebooks import (
    LIMIT,
    NOTEBOOKS,
    ROOT,
    code_cells,
    executed,
    normalised,
    picture_size,
    same_text,
)

# Their first cell, as the documentation shows it.
(INSTALL,) = re.findall(
    r"^```text\n(from .*?)\n```", (ROOT / "docs/notebooks.md").read_text(), re.DOTALL | re.MULTILINE
)
SIZE = 400_000  # bytes, pictures and all
STORE = "store it again: python -m tests.store_notebooks"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def texts(cell):
    """What a cell prints and shows, in words."""
    return [output.text if "text" in output else output.data["text/plain"] for output in cell.outputs]


def pictures(cell):
    return [picture_size(output) for output in cell.outputs if "image/png" in output.get("data", {})]


@each_notebook
def test_a_notebook_runs_within_its_time_without_a_warning_and_shows_what_is_stored(path, tmp_path):
    began = time.monotonic()
    fresh = normalised(executed(path, tmp_path))
    assert time.monotonic() - began < LIMIT

    stored = nbformat.read(path, as_version=4)
    for i, (was, now) in enumerate(zip(code_cells(stored), code_cells(fresh), strict=True)):
        where = f"{path.name}, code cell {i}"
        assert not [output.text for output in now.outputs if output.get("name") == "stderr"], where
        kinds = [[(output.output_type, output.get("name")) for output in cell.outputs] for cell in (was, now)]
        assert kinds[0] == kinds[1], f"{where}; {STORE}"
        for before, after in zip(texts(was), texts(now), strict=True):
            assert same_text(before, after), f"{where} held\n{before}\nand shows\n{after}\n{STORE}"
        for before, after in zip(pictures(was), pictures(now), strict=True):
            assert after == pytest.approx(before, rel=0.1), f"{where}: another picture; {STORE}"


@each_notebook
def test_a_notebook_is_stored_with_its_outputs_and_nothing_of_the_machine(path):
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert (stored.nbformat, stored.nbformat_minor) == (4, 5)
    assert stored == normalised(copy.deepcopy(stored)), f"{path.name} holds traces of a run; {STORE}"
    assert any(pictures(cell) for cell in code_cells(stored)), f"{path.name} holds no picture; {STORE}"
    assert path.stat().st_size < SIZE
    for text in (text for cell in code_cells(stored) for text in texts(cell)):
        assert not re.search(r"(?<![\w.])(/\w+){2}|0x[0-9a-f]{6}|[A-Z]:\\", text), f"of one machine: {text}"


def test_stored_text_is_compared_word_by_word_and_number_by_number():
    said = "order 1: 0.9512, 8,000 steps, largest difference 3e-16"
    assert same_text(said, said)
    assert same_text(said, "order 1: 0.9513, 8,000 steps,  largest difference 1e-15")  # another processor
    assert same_text("loss [1.25 -0.5]", "loss [1.251 -0.5]")
    assert same_text("about 3%", "about 4%")  # one in the last digit
    for other in (
        "order 1: 0.8512, 8,000 steps, largest difference 3e-16",  # a number
        "order 1: 0.9512, 9,000 steps, largest difference 3e-16",
        "order 1: 0.9512, 8,000 steps, largest difference 3e-6",
        "order 1: -0.9512, 8,000 steps, largest difference 3e-16",  # a sign
        "order 1: 0.9512, 8,000 steps, smallest difference 3e-16",  # a word
        "order 1: 0.9512, 8,000 steps",  # less
        said + " 1",  # more
        "order 1: nan, 8,000 steps, largest difference 3e-16",
    ):
        assert not same_text(said, other), other


@each_notebook
def test_a_notebook_installs_what_it_needs_first_and_links_to_no_place_that_does_not_exist(path):
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert "colab.research.google.com" not in path.read_text()
    assert code_cells(notebook)[0].source == INSTALL
    assert f"notebooks/{path.name}" in (ROOT / "docs/notebooks.md").read_text()
