"""What follows the step number alone in a transformation's state, and is set forward with a window."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.rules.from_optax.probe import behaviour
from tests import examples, oracles
from tests.rules.test_optax_probe import accumulated, check


def last(rows):
    return [x[-1] for x in rows]


def test_a_window_knows_the_phase_of_gradient_accumulation():
    """`gradient_step` and the count of Adam go on every second step; the whole history is checked itself."""
    tx = accumulated(optax.adam(1.0, b1=0.1, b2=0.2, eps_root=0.1), 2)
    found = behaviour(tx, examples.START)
    assert found.clock.period == 2
    assert sorted(found.clock.advance)[-3:] == [0, 1, 1]
    whole, cut = (
        ia.optax_vector_field(tx, examples.batch_loss, 0.1, batches=examples.batches(), window=window)
        for window in (None, 19)
    )
    schedule = jnp.arange(6) % examples.M
    F, DF = last(
        oracles.frozen_updates_and_derivatives(
            tx, examples.batch_loss, examples.batches(), schedule, examples.START
        )
    )
    assert float(jnp.linalg.norm(DF)) > 0.1
    np.testing.assert_allclose(whole(5, examples.START), -(F + 0.1 * DF), rtol=1e-10)
    for n in (41, 42, 43):
        at = jnp.asarray(n)
        np.testing.assert_allclose(
            jax.jit(cut)(at, examples.START), jax.jit(whole)(at, examples.START), rtol=1e-4, atol=1e-7
        )


def test_a_random_key_is_refused_with_a_window_and_serves_without():
    tx = optax.noisy_sgd(1.0, key=3)
    with pytest.raises(ValueError, match=r"rng_key is unknown.*leave out the window"):
        check(tx, window=10)
    field = ia.optax_vector_field(tx, examples.full_loss, 0.1)
    F, DF = last(
        oracles.frozen_updates_and_derivatives(
            tx, lambda t, _: examples.full_loss(t), jnp.zeros(1), jnp.zeros(3, int), examples.START
        )
    )
    np.testing.assert_allclose(field(2, examples.START), -(F + 0.1 * DF), rtol=1e-10)


def float_counter():
    """A bias correction whose step number is a floating number."""

    def init(params):
        return jnp.zeros(()), jnp.zeros_like(params)

    def update(g, state, _=None):
        n, m = state[0] + 1, 0.5 * state[1] + 0.5 * g
        return -m / (1 - 0.5**n) * (1 + 1 / n), (n, m)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    "tx",
    [
        float_counter(),
        optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.5, 90), momentum=0.5),
        optax.optimistic_gradient_descent(1.0),
    ],
    ids=["float-counter", "injected-schedule", "first-step-flag"],
)
def test_what_else_follows_the_step_number_is_set_forward_with_a_window(tx):
    cut, exact = (
        ia.optax_vector_field(tx, examples.full_loss, 0.1, window=window)(60, examples.START)
        for window in (40, None)
    )
    np.testing.assert_allclose(cut, exact, rtol=1e-8)
