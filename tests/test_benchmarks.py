"""The report of the benchmarks keeps what was measured on this machine, and nothing else."""

import json

from benchmarks import report
from benchmarks.measure import Measure, Missing
from benchmarks.scaling import CURVES, Curve
from benchmarks.timing import Timing


def measure(value):
    return Measure("slow / fast", value, "<=", 2.0, {"slow": Timing(3.0, value)}, {"a fact": 7.0})


def test_a_result_replaces_its_row_and_leaves_the_others(tmp_path):
    order = ("first", "second", "third")
    report.add(tmp_path, order, "second", measure(1.5))
    report.add(tmp_path, order, "first", measure(2.5))
    report.add(tmp_path, order, "third", Missing("a GPU"))
    page = (tmp_path / "README.md").read_text()
    assert page.index("| 2.5 | <= 2 | missed |") < page.index("| 1.5 | <= 2 | reached |")
    assert "| third | | | not measured: needs a GPU |" in page
    assert "`first`: a fact 7" in page
    report.add(tmp_path, order, "second", measure(1.25))
    report.add(tmp_path, order[:2], "scaling-m", Curve("t", "m", [1.0, 2.0], {"field": [1.0, 2.0]}))
    page = (tmp_path / "README.md").read_text()
    assert "1.25" in page
    assert "| 1.5 |" not in page
    assert "third" not in page, "what is no longer measured is dropped"
    assert (tmp_path / "scaling.png").stat().st_size > 0


def test_results_of_another_machine_and_curves_of_other_names_are_dropped(tmp_path):
    report.add(tmp_path, ("one",), "one", measure(1.5))
    path = tmp_path / report.RESULTS
    old = json.loads(path.read_text())
    old["scaling"] = {"n": {"title": "", "x_label": "", "x": [1.0], "seconds": {"field": [1.0]}}}
    path.write_text(json.dumps(old))
    report.add(tmp_path, ("one", "two"), "two", measure(1.0))
    kept = json.loads(path.read_text())
    assert set(kept["measurements"]) == {"one", "two"}
    assert kept["scaling"] == {}
    path.write_text(json.dumps(kept | {"machine": {"cores": 1000}}))
    report.add(tmp_path, ("one", "two"), "two", measure(1.0))
    assert set(json.loads(path.read_text())["measurements"]) == {"two"}
    assert all(name.startswith("scaling-") for name in CURVES)


def test_what_differs_from_the_machine_of_the_report_is_named(tmp_path):
    assert report.differences(tmp_path) == ""
    report.add(tmp_path, ("one",), "one", measure(1.5))
    assert report.differences(tmp_path) == ""
    path = tmp_path / report.RESULTS
    found = json.loads(path.read_text())
    found["machine"] |= {"cores": 1000, "versions": found["machine"]["versions"] | {"jax": "0.0.1"}}
    path.write_text(json.dumps(found))
    assert report.differences(tmp_path).startswith("cores 1000 there, ")
    assert "jax 0.0.1 there, " in report.differences(tmp_path)
