"""How far the orders higher_orders, and the unexpanded map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.inputs import checked_inputs
from implicit_adam.paper import (
    higher_orders,
)
from implicit_adam.paper.claims import DID_NOT_HOLD, HELD
from tests import examples
from tests.verdicts import nothing, verdicts


@pytest.fixture(scope="module")
def reached():
    config = higher_orders.HigherOrdersConfig(
        problems=(("bilinear", 0.5, 1e-4),),
        decays=((0.5, 0.7),),
        step_counts=(20, 40, 80, 160),
        unexpanded_steps=(("bilinear", 80),),
        accuracies=(1e-4, 1e-5),
    )
    return config, higher_orders.run(config, nothing)


def test_orders_reach_further_where_the_series_converges(reached):
    config, found = reached
    assert verdicts(higher_orders.HIGHER_ORDERS, found, config) == [HELD]
    plain, first, second, unexpanded = found.error[0, 0]
    slopes = [np.log2(error[-2] / error[-1]) for error in (plain, first, second)]
    np.testing.assert_allclose(slopes, [1, 2, 3], atol=0.25)
    # The unexpanded map of order 1 has order 1, too; it is measured up to 80 steps.
    assert np.log2(unexpanded[1] / unexpanded[2]) == pytest.approx(2, abs=0.35)
    assert np.isnan(unexpanded[3])
    swapped = found._replace(largest_h=found.largest_h[:, :, [0, 2, 1, 3]])
    assert verdicts(higher_orders.HIGHER_ORDERS, swapped, config) == [DID_NOT_HOLD]


def test_the_largest_h_is_where_all_smaller_ones_are_within_the_accuracy():
    h = np.array([4.0, 3.0, 2.0, 1.0])
    errors = np.array([[1e-4, 1.0, 1e-4, 1e-4], [np.inf, np.inf, np.inf, 1.0], [1e-4, 1e-4, np.nan, np.nan]])
    np.testing.assert_array_equal(higher_orders._largest(h, errors, (1e-2,))[:, 0], [2.0, np.nan, 4.0])


def test_the_unexpanded_map_is_the_optimizer_run_over_the_displaced_history():
    h, n, theta = 0.05, 4, examples.START
    rule = ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    objective = checked_inputs(rule, examples.full_loss, theta).objective
    g = jax.grad(examples.full_loss)(theta)
    F = g / jnp.sqrt(g**2 + 0.1)
    tx = optax.adam(1.0, b1=0.5, b2=0.6, eps=0.0, eps_root=0.1)
    state = tx.init(theta)
    with jax.numpy_dtype_promotion("standard"):
        for k in range(n + 1):
            u, state = tx.update(jax.grad(examples.full_loss)(theta + h * (n - k) * F), state, theta)
    np.testing.assert_allclose(higher_orders.unexpanded(rule, objective, 8)(n, theta), -u, rtol=1e-12)
