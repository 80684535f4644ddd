"""Order 2 in closed form: its sums against the literal history, its smooth flow, its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.any_order.fixed_point import history_terms
from implicit_adam.fields.full_batch.closed_form import closed_form_terms
from implicit_adam.fields.full_batch.lag_moments import lag_moments, smooth_lag_moments
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.losses.problems import bilinear
from implicit_adam.objective import raveled_loss
from tests import examples
from tests.registry import CASES

moments_at, smooth_moments_at = jax.jit(lag_moments), jax.jit(smooth_lag_moments)
CLOSED = ("adam", "adam-eps-outside", "rmsprop-corrected", "gradient-descent", "adamw")


@pytest.mark.parametrize("name", CLOSED)
def test_closed_sums_are_the_literal_history(name):
    """Of the flow and of the map, coefficient by coefficient, with the order 1 that was there before."""
    rule, objective = CASES[name](0.1), raveled_loss(examples.full_quartic, examples.START)
    # The map differs from the flow in sums that are the same for every rule.
    flows = (True, False) if name in ("adam", "adamw") else (True,)

    @jax.jit
    def both(n):
        return [
            (closed_form_terms(rule, objective, 2, flow=flow)(n)(examples.START),
             history_terms(rule, objective, 2, flow=flow)(n)(examples.START),
             exact_terms(rule, objective, 1, flow=flow)(n)(examples.START))
            for flow in flows
        ]  # fmt: skip

    for n in (0, 1, 2, 7, 60):
        for closed, literal, first in both(jnp.asarray(n)):
            for x, y in zip(closed, literal, strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-13 + 1e-10 * float(jnp.max(jnp.abs(y))))
            for x, y in zip(closed, first, strict=False):
                np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "heavy-ball", "nadam", "lion", "rmsprop-eps-outside", "ademamix"])
def test_the_limit_at_order_2_is_the_literal_history_of_a_late_step(name):
    rule, objective = CASES[name](0.1), raveled_loss(examples.full_quartic, examples.START)

    @jax.jit
    def both(n):
        late = history_terms(rule, objective, 2, flow=True)(n)(examples.START)
        return closed_form_terms(rule, objective, 2, flow=True)(jnp.inf)(examples.START), late

    for x, y in zip(*both(250), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * float(jnp.max(jnp.abs(y))))


@pytest.mark.parametrize("n", [0, 1, 5, 700])
def test_the_moments_of_the_lag_are_sums_over_the_history(n):
    rule = ia.Adam(0.1, 0.9, 0.99)
    lag, decay = np.arange(n + 1.0), np.array([0.9, 0.99])[:, None]
    weights = decay**lag / np.sum(decay**lag, axis=1, keepdims=True)
    mean_lag_at = [
        np.array([np.average(np.arange(l + 1.0), weights=d ** np.arange(l + 1.0)) for l in range(n)])
        for d in decay[:, 0]
    ]
    run_up = np.array([[np.sum(lags[n - int(j) :]) if j else 0.0 for j in lag] for lags in mean_lag_at])
    moments = moments_at(rule, jnp.asarray(n))
    np.testing.assert_allclose(moments.first, weights @ lag, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(moments.second, weights @ lag**2, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(moments.cross, weights @ run_up.T, rtol=1e-11, atol=1e-14)


def test_late_in_a_run_the_moments_and_the_fields_derivatives_stay_finite():
    moments = moments_at(ia.Adam(0.1, 0.9, 0.99), jnp.asarray(20000))
    np.testing.assert_allclose(moments.second, [0.9 * 1.9 / 0.1**2, 0.99 * 1.99 / 0.01**2], rtol=1e-10)
    # The sum over the lags reaches as far as they matter.
    np.testing.assert_allclose(moments.cross, np.outer([9, 99], [9, 99]), rtol=1e-12)
    beta = jnp.asarray(0.9)
    field = lambda beta: ia.vector_field(ia.Adam(0.1, beta, 0.99, eps_in_sqrt=True), examples.full_loss)(
        20000, examples.START
    )
    assert bool(jnp.isfinite(jax.jacfwd(field)(beta)).all())


@pytest.mark.parametrize("n", [32, 60, 400])
def test_the_smooth_mean_lag_averages_to_that_of_the_step(n):
    """To what order 2 needs: without the bend it would miss by O(h^2) over a run."""
    rule = ia.Adam(0.1, 0.97, 0.99)
    nodes, weights = np.polynomial.legendre.leggauss(5)

    def average(moments):
        over = [
            w / 2 * moments(rule, jnp.asarray(n + x / 2)).first for x, w in zip(nodes, weights, strict=True)
        ]
        return sum(over)

    exact = moments_at(rule, jnp.asarray(n)).first
    bent, straight = (
        float(jnp.max(jnp.abs(average(moments) - exact))) for moments in (smooth_moments_at, moments_at)
    )
    assert bent < straight / 1000
    assert straight > 1e-6


SMOOTH = {
    "short memory": ia.Adam(1e-3, 0.5, 0.7, 1e-2, eps_in_sqrt=True),
    "long memory": ia.Adam(1e-4, 0.9, 0.999, 1e-6, eps_in_sqrt=True),
    "decay": ia.AdamW(1e-3, 0.9, 0.95, 1e-2, weight_decay=0.1, eps_in_sqrt=True),
}


@pytest.mark.parametrize("rule", SMOOTH.values(), ids=SMOOTH.keys())
def test_the_smooth_flow_of_order_2_moves_it_by_far_less_than_its_own_error(rule):
    problem, steps = bilinear(), 1000
    arguments = (rule, problem.loss, problem.params, steps)
    piecewise, smooth = (
        run(*arguments, order=2, save_every=steps // 10) for run in (ia.flow, ia.smooth_flow)
    )
    distance = lambda a, b: float(jnp.max(jnp.linalg.norm(a.params - b.params, axis=-1)))
    own = distance(piecewise, ia.iterate(*arguments, save_every=steps // 10))
    assert 0 < distance(smooth, piecewise) < own / 100
    assert own < distance(ia.flow(*arguments, save_every=steps // 10), piecewise) / 3


def deep_loss(weights):
    """Six square layers, so that nearly all products are with inner activations."""
    z = jnp.cos(jnp.arange(512.0 * 48).reshape(512, 48))
    for w in weights:
        z = jnp.tanh(z @ w)
    return jnp.mean(z**2)


@pytest.mark.parametrize(("rule", "r"), [(ia.GradientDescent(0.1), 1), (ia.Adam(0.1, eps_in_sqrt=True), 2)])
def test_an_evaluation_in_closed_form_at_order_2_costs_what_was_counted(rule, r):
    """A gradient, D, T[F, F] and r products Hess E V: 1 + 2 + 7/3 + 2r gradients, whatever n is."""
    weights = [jax.random.normal(key, (48, 48)) / 7 for key in jax.random.split(jax.random.key(0), 6)]

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    gradient = operations(jax.grad(deep_loss), weights)
    cost = operations(ia.vector_field(rule, deep_loss, order=2), jnp.asarray(5), weights)
    assert 0.9 < cost / gradient / (16 / 3 + 2 * r) < 1.1
