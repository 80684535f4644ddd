"""The central flow beside the closure: verdicts follow the data, and means are those of stretches."""

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.edge.mean_path import (
    CENTRAL,
    EQUATIONS,
    Case,
    MeanPathConfig,
    MeanPaths,
    Means,
    Off,
    off_by,
    stretches,
)
from implicit_adam.paper.edge.mean_path_report import CENTRAL_FLOW
from tests.verdicts import verdicts

CONFIG = MeanPathConfig(cases=(Case("Adam", (1e-3, 0.5), 300),))


def found(centre=0.0, loss=1.0, eigenvalue=1.0):
    """All is right but the central flow."""
    one = np.ones(2)
    right = Off(0 * one, one, one)
    off = dict.fromkeys(EQUATIONS, right) | {CENTRAL: Off(centre * one, loss * one, eigenvalue * one)}
    return MeanPaths({"Adam(0.001, 0.5)": Means(one[:, None], one, one)}, {"Adam(0.001, 0.5)": off})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [HELD, HELD, HELD]),
        ({"centre": 0.011}, [DID_NOT_HOLD, HELD, HELD]),
        ({"loss": 0.89}, [HELD, DID_NOT_HOLD, HELD]),
        ({"eigenvalue": 1.04}, [HELD, HELD, DID_NOT_HOLD]),
        ({"loss": np.nan}, [HELD, UNDECIDED, HELD]),
    ],
)
def test_verdicts_follow_the_data(changed, expected):
    assert verdicts(CENTRAL_FLOW, found(**changed), CONFIG) == expected


def test_the_table_has_the_errors_of_every_equation():
    (table,) = CENTRAL_FLOW.tables(CONFIG, found(0.02, 0.9, 1.1))
    assert [row[1] for row in table.rows] == list(EQUATIONS)
    assert table.rows[0] == (
        "Adam(0.001, 0.5)",
        CENTRAL,
        "2.00% / 2.00%",
        "10.00% / 10.00%",
        "10.00% / 10.00%",
    )


def test_means_are_over_stretches_with_half_of_their_ends():
    values = np.asarray([0.0, 2.0, 4.0, 0.0, 0.0])
    np.testing.assert_allclose(stretches(values, 2), [2.0, 1.0])
    np.testing.assert_allclose(stretches(jnp.asarray(values)[:, None], 2), [[2.0], [1.0]])


def test_an_equation_is_off_by_its_distance_and_its_ratios():
    reference = Means(np.zeros((2, 2)), np.ones(2), 2 * np.ones(2))
    off = off_by(Means(np.asarray([[3.0, 4.0], [0.0, 0.0]]), 2 * np.ones(2), np.ones(2)), reference, 10.0)
    np.testing.assert_allclose(off.centre, [0.5, 0.0])
    np.testing.assert_allclose(off.loss, 2)
    np.testing.assert_allclose(off.eigenvalue, 0.5)
