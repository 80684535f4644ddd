"""The pages of the documentation: their examples run as written, and what they name and link to exists."""

import importlib
import re
from pathlib import Path

import pytest

import implicit_adam as ia
from tests.test_readme import README, ROOT, blocks, run

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
X64 = "import jax\njax.config.update('jax_enable_x64', True)\n"


def relative(path):
    return str(path.relative_to(DOCS))


def program(path):
    """All examples of a page, one after the other, without those in float64."""
    return "\n".join(block for block in blocks(path) if not block.startswith("# float64"))


# Pages that show what their examples print; all other examples assert what they show.
PRINTS = ("index.md", "usual-settings.md")
RUN = [path for path in PAGES if blocks(path) and relative(path) not in PRINTS]


@pytest.mark.parametrize("path", RUN, ids=relative)
def test_the_examples_of_a_page_run(path):
    assert "assert" in program(path), "an example that can not fail shows nothing"
    run(program(path))


def test_the_first_page_shows_the_example_of_the_readme_and_what_it_prints():
    (example,) = blocks(README)
    assert blocks(DOCS / "index.md") == [example]
    (shown,) = re.findall(r"^```text\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert shown in (DOCS / "index.md").read_text()
    for said, printed in zip(shown.splitlines(), run(example).splitlines(), strict=True):
        assert re.findall("[a-zA-Z]+", said) == re.findall("[a-zA-Z]+", printed)
        values = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in (said, printed)]
        assert values[1] == pytest.approx(values[0], abs=2e-4, rel=0.1 if "gradients" in said else 1e-3)


def test_at_usual_settings_the_memory_is_what_the_plain_flow_lacks_and_the_batch_size_a_number():
    lines = run(program(DOCS / "usual-settings.md")).splitlines()
    carried, plain, corrected = (float(line.split()[1].rstrip("%")) for line in lines[:3])
    assert carried < 0.1
    assert 50 < plain < corrected
    norms = {line.split()[0]: float(line.split()[2].rstrip(":")) for line in lines[4:9]}
    assert norms["instant"] == pytest.approx(24, rel=0.03)
    assert norms["memory"] == pytest.approx(19, rel=0.03)
    assert 0 < norms["step"] < 0.002
    assert norms["minibatch"] == norms["decay"] == 0
    losses = [float(x) for x in re.findall(r": ([\d.]+)", lines[-1])]
    assert losses == pytest.approx([2.0, 1.77, 1.56, 1.39], abs=0.015)


def test_the_study_of_the_quickstart_finds_the_orders():
    page = blocks(DOCS / "quickstart.md")
    (study,) = (block for block in page if block.startswith("# float64"))
    printed = run(X64 + page[0] + study).splitlines()[-1]
    slopes = [float(x) for x in re.findall(r": (\d\.\d+)", printed)]
    assert slopes == pytest.approx([1, 2], abs=0.1)
    assert printed.endswith("{0: True, 1: True}")


ROOMS = ("rules", "plotting", "problems", "modified_losses", "penalties", "networks", "datasets")


def test_everything_public_is_in_the_reference():
    text = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    shown = set(re.findall(r"^::: implicit_adam\.([\w.]+)$", text, re.MULTILINE))
    rooms = {room: importlib.import_module(getattr(ia, room).__name__) for room in ROOMS}
    wanted = {name for name in ia.__all__ if name not in ROOMS}
    for room, module in rooms.items():
        names = {name for name in module.__all__ if room != "rules" or name not in ia.__all__}
        wanted |= {f"{room}.{name}" for name in names}
    assert wanted - shown == set()
    assert shown - wanted == set()


def test_the_table_of_contents_lists_every_page():
    listed = set(re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    outside = {"CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md"}
    assert listed == {relative(path) for path in PAGES} | outside


@pytest.mark.parametrize("path", [*PAGES, README, ROOT / "benchmarks/README.md"], ids=lambda path: path.name)
def test_links_inside_the_repository_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", path.read_text())
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_pages_load_nothing_from_elsewhere():
    """They are read offline."""
    for path in [*PAGES, ROOT / "mkdocs.yml", *Path(DOCS / "assets").glob("*")]:
        assert not re.search(r"!\[[^]]*\]\(https?:|(src|@import)\s*[=:( ]\s*[\"']?https?:", path.read_text())
