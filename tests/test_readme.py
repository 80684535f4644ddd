"""The README names everything, is short, and its reports are those of the commands that it names.

Its example runs with those of the pages, in test_pages.py.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def blocks(path):
    """The Python examples of a page."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def run(program):
    """What a program prints, in a newcomer's session, where no warning may come."""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_readme_names_the_public_api():
    import implicit_adam as ia

    named = set(re.findall(r"`(\w+)`", README.read_text()))
    functions = {name for name in dir(ia) if not name.startswith("_") and callable(getattr(ia, name))}
    results = {"Trajectory", "Convergence", "Decomposition", "Regimes", "TrainingRegime", "TopEigenvalue"}
    results |= {"SweepResult", "Observed", "Diagnosis"}
    assert functions - results <= named


def test_the_readme_is_a_screen_and_a_half_and_counts_what_the_reports_count():
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    held = r"(\d+) claims: (\d+) held, (?:(\d+) not decided here, )?(\d+) did not hold"
    claims, good, bad = re.search(r"(\d+) of (\d+) claims held, (\d+) did not", text).group(2, 1, 3)
    practical = re.search(held, (ROOT / "docs/practical/report.md").read_text())
    assert practical.group(1, 2, 4) == (claims, good, bad)
    paper = re.search(held, (ROOT / "docs/report.md").read_text())
    assert "of {} claims {} held, {} did not, {} are not decided".format(*paper.group(1, 2, 4, 3)) in text


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
