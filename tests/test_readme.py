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
    results |= {"CentralFlow", "SweepResult", "Observed", "Diagnosis", "Advice"}
    assert functions - results <= named


def counted(page):
    """The verdicts of a report: claims, held, did not hold, not decided."""
    text = (ROOT / page).read_text()
    line = re.search(r"^\d+ claims: .*$", text, re.MULTILINE).group()
    words = ("claims", "held", "did not hold", "not decided here")
    found = [re.search(rf"(\d+) {word}\b", line) for word in words]
    return [int(x.group(1)) if x else 0 for x in found]


def test_the_readme_is_a_screen_and_a_half_and_counts_what_the_reports_count():
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    claims, held, did_not, undecided = counted("docs/practical/report.md")
    assert undecided == 0
    assert f"{held} of {claims} claims held, {did_not} did not" in text
    claims, held, did_not, undecided = counted("docs/report.md")
    assert f"of {claims} claims {held} held, {did_not} did not, {undecided} are not decided" in text
    for numbers in map(counted, ("docs/practical/report.md", "docs/report.md")):
        assert numbers[0] == sum(numbers[1:])


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
