"""Within a step of a burst: exponentials where the equations of a memory suppose a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.fields.carried import fading
from implicit_adam.fields.carried.bursts import LARGEST, Burst, burst, half_a_step_ago

MU = [1.02, 1.5, 3.0, 10.0]
DECAYS = [0.05, 0.5, 0.9, 0.999]
A, E = 0.3, 2.0
ALL = jnp.asarray(1.0)


def in_a_burst(mu):
    """A burst with all change due to it; psi = A + E mu^(2v) and its change in a step, at v = 0."""
    mu = jnp.asarray(mu)
    return Burst(mu, ALL, ALL), jnp.asarray(A + E), E * (1 - mu**-2)


def remembered(mu, delta, v):
    """The memory that psi leaves, its start forgotten: A + E (1-delta) M^v / (M - delta)."""
    return A + E * (1 - delta) * mu ** (2 * v) / (mu**2 - delta)


@pytest.mark.parametrize("mu", MU)
@pytest.mark.parametrize("delta", DECAYS)
def test_memories_of_what_grows_are_exact(mu, delta):
    grown, psi, change = in_a_burst(mu)
    d, S = jnp.asarray(delta), jnp.asarray(remembered(mu, delta, 0.0))
    exact = jax.grad(lambda v: remembered(mu, delta, v))(0.0)
    np.testing.assert_allclose(fading.rate(d, S, psi, grown.in_rate(d) * change), exact, rtol=1e-9)
    for v, factor in ((0.5, grown.in_after), (-0.5, grown.in_before)):
        found = fading.ahead(d, S, psi, factor(d) * change, jnp.asarray(v))
        np.testing.assert_allclose(found, remembered(mu, delta, v), rtol=1e-12)


@pytest.mark.parametrize("mu", MU)
def test_the_present_features_and_a_memory_without_memory(mu):
    grown, psi, change = in_a_burst(mu)
    exact = A + E / mu
    np.testing.assert_allclose(psi - grown.in_present() * change / 2, exact, rtol=1e-12)
    # A hyperparameter decay of 0: after the step about now it holds the features of half a step ago.
    zero, half = jnp.asarray(0.0), jnp.asarray(0.5)
    found = fading.ahead(zero, jnp.asarray(jnp.nan), psi, grown.in_after(zero) * change, half)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize("mu", MU)
def test_a_sum_is_a_memory_that_never_fades(mu):
    grown, _, change = in_a_burst(mu)
    psi, one = jnp.asarray(E), jnp.asarray(1.0)
    total = lambda v: E * mu ** (2 * v) / (mu**2 - 1)
    found = fading.rate(one, jnp.asarray(total(0.0)), psi, grown.in_rate(one) * change)
    np.testing.assert_allclose(found, jax.grad(total)(0.0), rtol=1e-9)


def test_without_growth_all_is_the_line():
    for mu in (1.0, 1.0 + 1e-9):
        still = Burst(jnp.asarray(mu), ALL, ALL)
        decays = jnp.asarray([*DECAYS, 1.0])
        for factor in (still.in_rate(decays), still.in_after(decays), still.in_before(decays)):
            np.testing.assert_allclose(factor, 1, rtol=1e-8)
        np.testing.assert_allclose(still.in_present(), 1, rtol=1e-8)
    assert half_a_step_ago(jnp.asarray(3.0), jnp.asarray(2.0), jnp.asarray(1.0)) == 2.0


@pytest.mark.parametrize("delta", DECAYS)
def test_the_factor_of_the_rate_has_no_jump(delta):
    d, factors = jnp.asarray(delta), []
    for u in (0.0199, 0.0201):
        factors.append(Burst(jnp.exp(jnp.asarray(u / 2)), ALL, ALL).in_rate(d))
    assert abs(factors[0] - factors[1]) < 0.005


@pytest.mark.parametrize("mu", MU)
def test_the_alternating_feature_is_a_line_times_an_exponential(mu):
    q = lambda v: jnp.asarray((0.7 - 0.4 * v) * mu**v)
    np.testing.assert_allclose(
        half_a_step_ago(q(0.0), q(0.0) - q(-1.0), jnp.asarray(mu)), q(-0.5), rtol=1e-12
    )


def test_a_burst_grows_by_its_factor_and_never_shrinks():
    d = jnp.asarray([3.0, 4.0])
    for factor in (1.5, 3.0, 40.0):
        found = burst(d, (factor - 1) * d, d, -d, 1)
        assert found.mu == pytest.approx(min(factor, LARGEST))
        # What a step adds half a step ago, at d/sqrt(mu), times the rate is log(factor) d.
        assert found.rate * (factor - 1) / found.mu**0.5 == pytest.approx(np.log(factor))
        assert burst(d, (factor - 1) * d, d, -d, 0).rate * (factor - 1) == pytest.approx(np.log(factor))
    assert burst(d, -d / 2, d, -d, 1).mu == 1
    assert burst(jnp.zeros(2), d, d, -d, 1).mu == 1


def test_drift_stays_on_its_line_whatever_grows_beside_it():
    drift, pair = jnp.asarray([1.0, 2.0]), jnp.asarray([1e-9, 0.0])
    found = burst(pair, 2 * pair, drift + pair, drift - pair, 1)
    assert found.mu == 3
    np.testing.assert_allclose(found.in_rate(jnp.asarray(0.9)), 1, rtol=1e-15)
    np.testing.assert_allclose(found.in_after(jnp.asarray(0.9)), 1, rtol=1e-15)
    assert burst(pair, pair, pair, -pair, 1).share == 1
    assert burst(pair, pair, 0 * pair, 0 * pair, 1).share == 0
