"""The README's examples run as written and show what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def run(program):
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_examples_run_in_a_newcomers_session_and_the_corrected_flow_is_closer():
    program = "\n".join(block for block in blocks() if "# float64" not in block)
    lines = run(program).splitlines()
    compared, carried, plain_flow, corrected_flow = lines[:4]
    own, rule, validity, orders, swept = lines[-5:]
    norms = {line.split()[0]: float(line.split()[2].rstrip(":")) for line in lines[5:10]}
    assert norms["instant"] == pytest.approx(24, rel=0.03)
    assert norms["memory"] == pytest.approx(19, rel=0.03)
    assert 0 < norms["step"] < 0.002
    assert norms["minibatch"] == norms["decay"] == 0
    shares = [float(line.split()[1].rstrip("%")) for line in (carried, plain_flow, corrected_flow)]
    assert shares[0] < 0.1
    assert 50 < shares[1] < shares[2]
    corrected, plain = compared.split("<")
    assert 0 < 5 * float(corrected) < float(plain)
    assert 0 < float(own) < 1e-3
    assert 0 < float(rule) < 1e-4
    assert 0 < float(validity.split()[0]) < 0.1
    plain, first, second = map(float, orders.split())
    assert 0 < 3 * second < first < plain / 3
    assert swept == "(10, 4) True"


def test_the_study_of_the_readme_finds_the_orders():
    (study,) = (block for block in blocks() if "# float64" in block)
    start = next(block for block in blocks() if "def loss(params)" in block)
    setup = "import jax\njax.config.update('jax_enable_x64', True)\n"
    printed = run(setup + start + study).splitlines()[-1]
    slopes = [float(x) for x in re.findall(r": (\d\.\d+)", printed)]
    assert abs(slopes[0] - 1) < 0.1
    assert abs(slopes[1] - 2) < 0.1
    assert printed.endswith("{0: True, 1: True}")


def test_the_readme_names_the_public_api():
    import implicit_adam as ia

    named = set(re.findall(r"`(\w+)`", README.read_text()))
    functions = {name for name in dir(ia) if not name.startswith("_") and callable(getattr(ia, name))}
    results = {"Trajectory", "Convergence", "Decomposition", "Regimes", "TrainingRegime", "TopEigenvalue"}
    results |= {"SweepResult", "Observed"}
    assert functions - results <= named


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/report.md",
        "docs/practical/report.md",
        "docs/leaderboard/report.md",
        "benchmarks/README.md",
    ],
)
def test_links_inside_the_repository_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", path.read_text())
    assert targets or page.startswith("benchmarks")
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_the_report_is_that_of_the_default_run_of_every_experiment():
    from implicit_adam.paper.reproduce import BY_NAME_ONLY, EXPERIMENTS

    text = (ROOT / "docs/report.md").read_text()
    assert re.search(r"Written by `implicit-adam reproduce --out docs` in \d+ min", text)
    for name, folder in BY_NAME_ONLY.items():
        own = (ROOT / f"docs/{folder}/report.md").read_text()
        command = f"implicit-adam reproduce {name} --out docs/{folder}"
        assert re.search(rf"Written by `{command}` in \d+ (min|s)", own)
    for name, experiment in EXPERIMENTS.items():
        folder = ROOT / "docs" / BY_NAME_ONLY.get(name, "")
        assert f"## {experiment.title}" in (folder / "report.md").read_text()
        assert (folder / f"{name}.png").exists()
