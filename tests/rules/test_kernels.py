"""Sums over a fading memory, against exact rational arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.fields.mini_batch.discounted_counts import discounted_visits
from implicit_adam.rules import kernels

DECAYS = (0.0, 0.1, 0.5, 0.9, 0.999, 0.99999, 1.0)


def exact(decay, N):
    x = Fraction(decay)
    powers = [x**j for j in range(N)]
    total = sum(powers)
    return total, sum(j * power for j, power in enumerate(powers)) / total


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("N", [1, 2, 3, 10, 60])
def test_sums_and_mean_lags_are_exact_to_a_few_roundings(decay, N, dtype):
    x = jnp.asarray(decay, dtype)
    total, lag = exact(float(x), N)
    rtol = 20 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(kernels.geometric_sum(x, N), float(total), rtol=rtol)
    np.testing.assert_allclose(kernels.mean_lag(x, N), float(lag), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_an_infinite_memory_has_the_limits_of_the_geometric_series(decay):
    x = jnp.asarray(decay)
    np.testing.assert_allclose(kernels.one_minus_power(x, jnp.inf), 1)
    np.testing.assert_allclose(kernels.geometric_sum(x, jnp.inf), 1 / (1 - decay), rtol=1e-13)
    np.testing.assert_allclose(kernels.mean_lag(x, jnp.inf), decay / (1 - decay), rtol=1e-13)
    for f in (kernels.geometric_sum, kernels.mean_lag):
        assert bool(jnp.isfinite(jax.grad(f)(x, jnp.inf)))


@pytest.mark.parametrize("N", [1, 2, 7])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.7, 0.999])
def test_derivatives_in_the_decay_are_those_of_the_polynomial(decay, N):
    polynomial = lambda x: sum(j * x ** (j - 1) for j in range(1, N))
    np.testing.assert_allclose(
        jax.grad(kernels.geometric_sum)(decay, N), polynomial(decay), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("n", [0, 3])
def test_kernels_have_the_mass_and_the_lag_of_their_weights(n):
    beta = jnp.asarray(0.8)
    lags = np.arange(n + 1)
    for kernel, weights in (
        (kernels.delta(beta), (lags == 0) * 1.0),
        (kernels.accumulation(beta), 0.8**lags),
        (kernels.average(beta, n), 0.2 * 0.8**lags / (1 - 0.8 ** (n + 1))),
        (kernels.average(beta, n, bias_correction=False), 0.2 * 0.8**lags),
    ):
        each = [float(jnp.sum(kernels.at_lag(kernel, int(lag)))) for lag in lags]
        np.testing.assert_allclose(each, weights, rtol=1e-13)
        np.testing.assert_allclose(kernels.mass(kernel, n), sum(weights), rtol=1e-13)
        np.testing.assert_allclose(kernels.lag_moment(kernel, n), sum(weights * lags), rtol=1e-13)


def test_kernels_add_and_scale_and_their_masses_with_them():
    beta, n = jnp.asarray(0.8), 3
    both = 3.0 * kernels.average(beta, n) + kernels.delta(beta)
    assert both.masses is not None
    np.testing.assert_allclose(both.masses, [3.0, 1.0], rtol=1e-14)
    weights = 3 * 0.2 * 0.8 ** np.arange(4) / (1 - 0.8**4) + np.array([1.0, 0, 0, 0])
    each = [float(jnp.sum(kernels.at_lag(both, lag))) for lag in range(4)]
    np.testing.assert_allclose(each, weights, rtol=1e-13)
    # A mass that is not known of one part is not of the sum, and what one part keeps the sum keeps.
    assert (3.0 * kernels.accumulation(beta)).masses is None
    assert (kernels.delta(beta) + kernels.accumulation(beta)).masses is None
    assert (kernels.delta(beta) + kernels.accumulation(beta)).forgets
    assert not (kernels.delta(beta) + kernels.total(beta)).forgets
    assert not (2.0 * kernels.total(beta)).forgets


@pytest.mark.parametrize("m", [1, 3])
def test_discounted_visits_are_the_sum_over_the_schedule(m):
    decay, schedule = np.array([0.0, 0.6, 1.0]), np.arange(9) % m
    table = discounted_visits(jnp.asarray(schedule), m, jnp.asarray(decay))
    closed = discounted_visits(None, m, jnp.asarray(decay))
    for step in range(9):
        k = np.arange(step + 1)
        expected = [[sum(d ** (step - j) for j in k if schedule[j] == b) for b in range(m)] for d in decay]
        np.testing.assert_allclose(table(jnp.asarray(step)), expected, rtol=1e-13)
        np.testing.assert_allclose(closed(jnp.asarray(step)), expected, rtol=1e-13)
