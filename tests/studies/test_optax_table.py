"""The table of optax's optimizers is whole, and says what the code does."""

import math
from pathlib import Path

import numpy as np
import pytest

from implicit_adam.cli.optax_table import line
from implicit_adam.studies import optax_examples, optax_table

PAGE = Path(__file__).parents[2] / "docs" / "optax.md"
COLUMNS = ("name", "arguments", "verdict", "plain", "corrected", "error", "why")


def committed():
    lines = [text for text in PAGE.read_text().splitlines() if text.startswith("| ")][1:]
    cells = [[cell.strip() for cell in text.strip("|").split(" | ")] for text in lines]
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells}


def test_every_optimizer_of_optax_is_in_the_table():
    names = optax_examples.names()
    assert {"adam", "MultiSteps", "lookahead", "contrib.muon", "contrib.sam", "chain"} <= set(names)
    assert set(names) <= set(optax_examples.entries())
    assert list(committed()) == list(optax_examples.entries())


def test_no_supported_optimizer_is_written_with_a_wrong_slope():
    verdicts = {name: row["verdict"].strip("*") for name, row in committed().items()}
    assert sum(verdict == optax_table.SUPPORTED for verdict in verdicts.values()) > 30
    for name, row in committed().items():
        if verdicts[name] == optax_table.SUPPORTED:
            assert abs(float(row["plain"]) - 1) <= optax_table.TOLERANCE
            assert abs(float(row["corrected"]) - 2) <= optax_table.TOLERANCE
        elif verdicts[name] == optax_table.REFUSED:
            assert row["plain"] == row["corrected"] == ""
            assert row["why"]


@pytest.mark.parametrize(
    "name",
    ["adam", "adagrad", "fromage", "contrib.sam", "lion", "contrib.momo", "adam, mu_dtype", "lookahead"],
)
def test_a_row_says_what_the_code_does(name):
    (row,) = optax_table.rows([name], threads=1)
    written = committed()[name]
    assert line(row).startswith(f"| {name} | {written['arguments']} | {written['verdict']} |")
    assert line(row).rstrip(" |").endswith(written["why"].rstrip("| "))
    for measured, text in zip(row.slope, (written["plain"], written["corrected"]), strict=True):
        assert math.isnan(measured) if text == "" else abs(measured - float(text)) < 0.02


def test_an_optimizer_of_which_the_learning_rate_is_no_factor_is_not_measured_as_another():
    """Measured as h times the updates of learning rate 1, fromage would be found to hold."""
    _, make = optax_examples.entries()["fromage"]
    slope, _ = optax_table._measured(make(1.0))
    np.testing.assert_allclose(slope, (1, 2), atol=0.15)
    assert optax_table.row("fromage", "", make).verdict == optax_table.REFUSED
