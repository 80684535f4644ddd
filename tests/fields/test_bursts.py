"""Within a step of a burst: exponentials where the equations of a memory suppose a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.fields.carried import fading
from implicit_adam.fields.carried.bursts import (
    LARGEST,
    for_memory,
    for_rate,
    growth,
    half_a_step_ago,
    rate_of_growth,
    share_of,
)

MU = jnp.asarray([1.0, 1.0 + 1e-9, 1.01, 1.5, 3.0, 10.0])
A, E = 0.3, 2.0


def in_a_burst(d, mu):
    """psi = A + E mu^(2v): the memory it leaves, S(v), with start forgotten; psi and its change at v = 0."""
    M = mu**2
    S = lambda v: A + E * (1 - d) / (M - d) * M**v
    return S, jnp.asarray(A + E), E * (1 - 1 / M)


@pytest.mark.parametrize("mu", MU[2:])
def test_a_long_memory_changes_at_the_rate_of_what_grows(mu):
    d = jnp.asarray(1 - 1e-6)
    S, psi, change = in_a_burst(d, mu)
    exact = jax.grad(S)(jnp.asarray(0.0))
    found = fading.rate(d, S(0.0), psi, for_rate(mu, jnp.asarray(1.0)) * change)
    # Relative to what a step adds, beyond the present value A + (1-d) E: the remainder is of order 1-d.
    np.testing.assert_allclose(found / (1 - d), exact / (1 - d), atol=1e-5 * E)


@pytest.mark.parametrize("mu", MU[2:])
def test_a_long_memory_half_a_step_later_holds_what_grew(mu):
    d, half = jnp.asarray(1 - 1e-6), jnp.asarray(0.5)
    S, psi, change = in_a_burst(d, mu)
    found = fading.ahead(d, S(0.0), psi, for_memory(mu, jnp.asarray(1.0)) * change, half)
    np.testing.assert_allclose((found - S(0.0)) / (1 - d), (S(half) - S(0.0)) / (1 - d), atol=1e-5 * E)


def test_without_growth_all_is_the_line():
    for factor in (for_rate(MU, jnp.asarray(1.0)), for_memory(MU, jnp.asarray(1.0)), rate_of_growth(MU)):
        np.testing.assert_allclose(factor[:2], 1, rtol=1e-8)
    assert half_a_step_ago(jnp.asarray(3.0), jnp.asarray(2.0), MU[0]) == 2.0


@pytest.mark.parametrize("mu", MU)
def test_the_alternating_feature_is_a_line_times_an_exponential(mu):
    q = lambda v: (0.7 - 0.4 * v) * mu**v
    np.testing.assert_allclose(half_a_step_ago(q(0.0), q(0.0) - q(-1.0), mu), q(-0.5), rtol=1e-12)


def test_what_a_step_adds_half_a_step_ago_gives_the_rate():
    d = lambda v: 0.2 * MU**v
    added = d(0.5) - d(-0.5)
    np.testing.assert_allclose(rate_of_growth(MU) * added, 0.2 * jnp.log(MU), rtol=1e-7)


def test_the_growth_is_that_of_the_length_and_bounded():
    d = jnp.asarray([3.0, 4.0])
    assert growth(d, d) == 2
    assert growth(d, -d / 2) == 1
    assert growth(d, 1e6 * d) == LARGEST
    assert growth(jnp.zeros(2), d) == 1


def test_drift_stays_on_its_line_whatever_grows_beside_it():
    drift, pair = jnp.asarray([1.0, 2.0]), jnp.asarray([1e-9, 0.0])
    share = share_of(drift + pair, drift - pair)
    np.testing.assert_allclose(for_rate(MU, share), 1, rtol=1e-15)
    np.testing.assert_allclose(for_memory(MU, share), 1, rtol=1e-15)
    assert share_of(pair, -pair) == 1
    assert share_of(0 * pair, 0 * pair) == 0
