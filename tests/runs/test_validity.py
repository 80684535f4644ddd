"""A flow says how large its correction is, and warns where it is as large as what it corrects."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import quadratic
from tests import examples

RULE = ia.Adam(0.02, 0.5, 0.6, 0.1, eps_in_sqrt=True)
MINI = {"batches": examples.batches(), "schedule": examples.random_schedule(12)}


def by_fields(rule, loss, n, theta, order=1, **kwargs):
    """The two fields differ by the correction."""
    plain, corrected = (ia.vector_field(rule, loss, order=q, **kwargs)(n, theta) for q in (0, order))
    return float(jnp.linalg.norm(corrected - plain) / jnp.linalg.norm(plain))


def test_the_validity_of_a_flow_is_the_largest_size_of_its_correction():
    run = ia.flow(RULE, examples.batch_loss, examples.START, 12, **MINI)
    assert float(run.validity[0]) == 0
    for n in (0, 7):
        at = by_fields(RULE, examples.batch_loss, n, run.params[n], **MINI)
        np.testing.assert_allclose(run.validity[n + 1], at, rtol=1e-9)
    seldom = ia.flow(RULE, examples.batch_loss, examples.START, 12, save_every=6, **MINI)
    halves = np.asarray(run.validity)[1:].reshape(2, 6)
    np.testing.assert_allclose(seldom.validity[1:], halves.max(axis=1), rtol=1e-12)


SOLVERS = {
    "without stages": {"solver": diffrax.Euler()},
    "adaptive": {"stepsize_controller": diffrax.PIDController(rtol=1e-9, atol=1e-9)},
    "implicit": {"solver": diffrax.Kvaerno3()},
    "order 2": {"order": 2},
}


@pytest.mark.parametrize("kwargs", SOLVERS.values(), ids=SOLVERS.keys())
def test_every_kind_of_solver_and_order_measures_its_own_correction(kwargs):
    run = ia.flow(RULE, examples.full_loss, examples.START, 3, **kwargs)
    order = kwargs.get("order", 1)
    at = by_fields(RULE, examples.full_loss, 2, run.params[2], order=order)
    np.testing.assert_allclose(run.validity[3], at, rtol=1e-9)
    hidden = "stepsize_controller" in kwargs or kwargs.get("solver") == diffrax.Kvaerno3()
    assert bool(jnp.isnan(run.rounding[-1])) == hidden


def test_a_smooth_flow_measures_some_of_its_saves():
    run = ia.smooth_flow(RULE, examples.full_loss, examples.START, 60, save_every=6)
    at = {i: by_fields(RULE, examples.full_loss, 6 * i - 1, run.params[i]) for i in (2, 4, 6, 8, 10)}
    expected = [0.0, *(at[i + i % 2] for i in range(1, 11))]
    np.testing.assert_allclose(run.validity, expected, rtol=1e-9)


def test_a_map_without_memory_measures_every_step():
    problem = quadratic((1.0, 3.0))
    rule = ia.HeavyBall(0.05, 0.5)
    run = ia.memoryless(rule, problem.loss, problem.params, 6)
    # F^(l) = (1 + .. + beta^l) g and DF[u] = H sum_k beta^(n-k) u_k, u_k = sum_{l=k}^{n-1} F^(l).
    lam = np.array([1.0, 3.0])
    for n in range(6):
        g = lam * np.asarray(run.params[n])
        F = [sum(0.5**j for j in range(l + 1)) * g for l in range(n + 1)]
        DF = lam * sum((0.5 ** (n - k) * sum(F[k:n], np.zeros(2)) for k in range(n + 1)), np.zeros(2))
        expected = 0.05 * np.linalg.norm(DF) / np.linalg.norm(F[n])
        np.testing.assert_allclose(run.validity[n + 1], expected, rtol=1e-12)


def test_what_corrects_nothing_has_no_validity():
    for run in (
        ia.iterate(RULE, examples.full_loss, examples.START, 3),
        ia.flow(RULE, examples.full_loss, examples.START, 3, order=0),
        ia.smooth_flow(RULE, examples.full_loss, examples.START, 3, order=0),
        ia.memoryless(RULE, examples.full_loss, examples.START, 3, order=0),
    ):
        assert bool(jnp.all(jnp.isnan(run.validity)))


@pytest.mark.parametrize(("curvature", "warns"), [(1.98, False), (2.02, True)])
def test_a_correction_larger_than_the_flow_is_warned_of(curvature, warns):
    # Gradient descent: h DF[v] = (h/2) H g, here h curvature / 2 times the flow.
    problem = quadratic((curvature,))
    arguments = ia.GradientDescent(1.0), problem.loss, problem.params, 2
    if warns:
        with pytest.warns(ia.OutsideRangeWarning, match=r"order 1 .* 1\.01 times") as seen:
            run = ia.flow(*arguments)
        assert len(seen) == 1
    else:
        run = ia.flow(*arguments)
    np.testing.assert_allclose(run.validity[1], curvature / 2, rtol=1e-12)
    # Order 0 corrects nothing, and inside jit there is the number alone.
    ia.flow(*arguments, order=0)
    jax.jit(lambda theta: ia.flow(*arguments[:2], theta, 2))(problem.params)


def test_a_flow_whose_loss_grows_is_warned_of_though_every_number_is_finite():
    rule = ia.Adam(0.05, 0.9, 0.999, 1e-8, eps_in_sqrt=True)
    problem, steps = quadratic((1.0, 10.0)), 200
    with pytest.warns(ia.OutsideRangeWarning):
        run = ia.flow(rule, problem.loss, problem.params, steps, save_every=10)
    assert bool(run.finite)
    assert float(problem.loss(run.params[-1])) > 2 * float(problem.loss(run.params[0]))
    optimizer = ia.iterate(rule, problem.loss, problem.params, steps, save_every=10)
    assert float(problem.loss(optimizer.params[-1])) < float(problem.loss(optimizer.params[0])) / 100


def test_lanes_have_their_own_validity():
    lane = lambda h: ia.flow(ia.GradientDescent(h), lambda t: jnp.sum(t**2) / 2, jnp.ones(2), 3).validity[-1]
    np.testing.assert_allclose(jax.vmap(lane)(jnp.asarray([0.1, 4.0])), [0.05, 2.0], rtol=1e-12)


def test_measuring_leaves_derivatives_alone_where_nothing_moves():
    # At the minimum F = 0 and DF = 0, whose norms have no derivative.
    flow = partial(ia.flow, ia.GradientDescent(0.1), quadratic((2.0,)).loss, steps=3, solver=diffrax.Tsit5())
    end = lambda theta: jnp.sum(flow(theta).params[-1])
    zero = jnp.zeros(1)
    expected = np.exp(-0.3 * 2 * (1 + 0.1))
    np.testing.assert_allclose(jax.grad(end)(zero), [expected], rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(end)(zero), [expected], rtol=1e-6)
    assert float(flow(zero).validity[-1]) == 0
