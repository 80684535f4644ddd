"""`implicit-adam diagnose`, as a user would run it."""

import json

import pytest

from implicit_adam.cli import main

MINE = """
import jax.numpy as jnp


def problem():
    return lambda x: jnp.sum(jnp.array([0.5, 4.0]) * x**2) / 2, jnp.array([1.0, -1.0])
"""
OPTIONS = ["--problem", "mine_diagnosed:problem", "--optimizer", "gradient-descent", "--h", "0.1"]


@pytest.fixture
def diagnosed(tmp_path, monkeypatch):
    """The command, with a problem of one's own."""
    (tmp_path / "mine_diagnosed.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return lambda *options: main(["diagnose", *OPTIONS, *options])


def test_it_says_what_a_run_does_and_what_a_change_would_do(diagnosed, tmp_path, capsys):
    assert diagnosed("--steps", "2", "--horizon", "4", "--advise", "8", "--out", "run.jsonl") == 0
    printed = capsys.readouterr().out
    assert "after 2 steps\nThe next 4 steps follow the equation with carried memory" in printed
    assert "Without a change the loss is predicted to be " in printed
    (row,) = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert row["equation"] == "carried"
    assert "Doubling h would lower it by " in row["advice"]
    # Of a quadratic with the two rates .5 and 4 hardly anything is left of the second after ten steps.
    doubled = (0.9**8 * 0.95**2) ** 2 / (0.95**10) ** 2 - 1
    assert abs(row["advice/h/doubled/loss"] - doubled) < 0.02 * abs(doubled)


def test_a_diagnosis_is_kept_where_the_advice_is_refused(diagnosed, tmp_path, capsys):
    steps = ("--steps", "2", "--horizon", "4", "--out", "run.jsonl")
    with pytest.warns(UserWarning, match="outside the theorem"):
        assert diagnosed("--optimizer", "optax:amsgrad", "--advise", "8", *steps) == 2
    assert "amsgrad" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert row["equation"] == "unknown"
    assert "advice" not in row


def test_bad_usage_is_said_before_anything_runs(diagnosed, capsys):
    assert diagnosed("--advise", "3") == 2
    assert "--advise must be a Python integer >= 4" in capsys.readouterr().err
    assert main(["diagnose", "--help"]) == 0
    assert "--advise 100" in capsys.readouterr().out
