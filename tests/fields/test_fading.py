"""One exponential memory as a state, against the recursion d A + psi itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.fields.carried.fading import ahead, rate, settled, weight


def vectors(*xs, dtype=float):
    return [jnp.full((1,), x, dtype) for x in xs]


DECAYS = (0.0, 1e-3, 0.5, 0.9, 0.999, 1.0)


def by_recursion(d, S, psi, change, steps):
    w = 1.0 if d == 1 else 1 - d
    for k in range(steps):
        S = d * S + w * (psi + k * change)
    return S


@pytest.mark.parametrize("d", DECAYS)
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_whole_steps_are_the_recursion_for_psi_on_a_line_and_for_the_decay_of_the_start(d, steps):
    S, psi, change = jnp.asarray([3.0, -2.0]), jnp.asarray([0.7, 1.1]), jnp.asarray([0.3, -5.0])
    there = ahead(jnp.asarray(d), S, psi, change, jnp.asarray(float(steps)))
    np.testing.assert_allclose(there, by_recursion(d, S, psi, change, steps), rtol=1e-12)


@pytest.mark.parametrize("d", DECAYS[1:])
@pytest.mark.parametrize("v", [0.25, 0.5, 7.3])
def test_two_parts_of_a_way_are_the_whole(d, v):
    d, (S, psi, change) = jnp.asarray(d), vectors(3.0, 0.7, -0.4)
    half = ahead(d, S, psi, change, jnp.asarray(v))
    whole = ahead(d, half, psi + v * change, change, jnp.asarray(1.5))
    np.testing.assert_allclose(whole, ahead(d, S, psi, change, jnp.asarray(v + 1.5)), rtol=1e-12)


@pytest.mark.parametrize("d", DECAYS[1:])
def test_the_rate_is_the_derivative_of_the_way(d):
    d, (S, psi, change) = jnp.asarray(d), vectors(3.0, 0.7, -0.4)
    along = jax.jacfwd(lambda v: ahead(d, S, psi, change, v))(jnp.asarray(1e-9))
    np.testing.assert_allclose(rate(d, S, psi, change), along, rtol=1e-6)


def test_half_a_step_is_the_formula_with_delta_and_c():
    # S(t + h/2) = q S + (1-q) psi + c h psi', c = 1/2 - (1-q)/(1-d).
    for d in (0.5, 0.9, 0.999):
        q = d**0.5
        expected = q * 3.0 + (1 - q) * 0.7 - 0.4 * (1 / 2 - (1 - q) / (1 - d))
        got = ahead(jnp.asarray(d), *vectors(3.0, 0.7, -0.4), jnp.asarray(0.5))
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    # lambda/h [psi(t - delta h) - S], delta = 1/(1-d) - 1/lambda.
    fading = -np.log(0.9)
    expected = fading * (0.7 + 0.4 * (10 - 1 / fading) - 3.0)
    np.testing.assert_allclose(rate(jnp.asarray(0.9), *vectors(3.0, 0.7, -0.4)), expected, rtol=1e-12)


def test_a_memory_near_one_keeps_its_digits_in_single_precision():
    d = np.float32(1 - 1e-4)
    for v in (0.5, 3.0, 1000.0):
        single, double = (
            ahead(jnp.asarray(d, dtype), *vectors(0.0, 0.0, 1.0, dtype=dtype), jnp.asarray(v, dtype))
            for dtype in (jnp.float32, jnp.float64)
        )
        np.testing.assert_allclose(single, double, rtol=1e-5)


def test_without_memory_value_and_derivative_in_the_decay_are_those_of_a_settled_one():
    (S, psi, change), v, zero = vectors(0.9, 0.7, -0.4), jnp.asarray(0.5), jnp.asarray(0.0)
    value = lambda d: ahead(d, S, psi, change, v) / weight(d)
    np.testing.assert_allclose(value(zero), 0.7 + 0.4 * 0.5, rtol=1e-15)
    # sum_j d^j psi(t - h/2 - j h): the first two terms.
    np.testing.assert_allclose(jax.jacfwd(value)(zero), 0.7 + 0.4 * 1.5, rtol=1e-15)
    np.testing.assert_allclose(jax.jacrev(value)(zero), 0.7 + 0.4 * 1.5, rtol=1e-15)
    # The state itself, which only a user sees, is psi of the step before and goes on with it.
    np.testing.assert_allclose(rate(zero, psi - change, psi, change), change, rtol=1e-15)
    np.testing.assert_allclose(settled(jnp.asarray(0.9), psi, change, v), 0.7 - 0.4 * (0.5 - 10), rtol=1e-12)


@pytest.mark.parametrize("d", DECAYS[1:])
@pytest.mark.parametrize("v", [0.5, 1.0, 2.5])
def test_back_and_ahead_again_is_where_it_was(d, v):
    d, (S, psi, change) = jnp.asarray(d), vectors(3.0, 0.7, -0.4)
    before = ahead(d, S, psi, change, jnp.asarray(-v))
    again = ahead(d, before, psi - v * change, change, jnp.asarray(v))
    np.testing.assert_allclose(again, S, rtol=1e-11)


def test_a_memory_near_one_keeps_its_digits_on_the_way_back():
    d = np.float32(1 - 1e-4)
    single, double = (
        ahead(jnp.asarray(d, dtype), *vectors(0.0, 0.0, 1.0, dtype=dtype), jnp.asarray(-0.5, dtype))
        for dtype in (jnp.float32, jnp.float64)
    )
    np.testing.assert_allclose(single, double, rtol=1e-5)
