"""An optimizer with its bias changed says how far what it adds is to be trusted, and what a step costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import quadratic
from tests import examples

RULE = ia.Adam(0.05, 0.5, 0.6, 0.1, eps_in_sqrt=True)
MINI = {"batches": examples.batches(), "schedule": examples.random_schedule(6)}


def train(tx, loss, params, steps, batches=None, schedule=None):
    """(points before each step, states after each step) of an ordinary training loop."""
    state, points, states = tx.init(params), [], []
    with jax.numpy_dtype_promotion("standard"):
        for n in range(steps):
            batch = () if batches is None else (jax.tree.map(lambda x, n=n: x[schedule[n]], batches),)
            updates, state = tx.update(jax.grad(loss)(params, *batch), state, params)
            points.append(params)
            states.append(state)
            params = optax.apply_updates(params, updates)
    return points, states


@pytest.mark.parametrize(("strength", "times"), [(-1.0, 1.0), (0.5, 1.0), (3.0, 3.0), (0.0, 0.0)])
def test_the_validity_is_the_largest_of_what_is_added_and_of_the_optimizers_own_correction(strength, times):
    tx = ia.with_bias(RULE, examples.batch_loss, strength, **MINI)
    points, states = train(tx, examples.batch_loss, examples.START, 6, **MINI)
    largest = 0.0
    for n, (point, state) in enumerate(zip(points, states, strict=True)):
        plain, corrected = (
            ia.vector_field(RULE, examples.batch_loss, order=q, **MINI)(n, point) for q in (0, 1)
        )
        own = float(jnp.linalg.norm(corrected - plain) / jnp.linalg.norm(plain))
        largest = max(largest, times * own)
        np.testing.assert_allclose(state.validity, largest, rtol=1e-10)


def test_order_two_counts_all_its_terms():
    """Gradient descent on a quadratic: f = -g (1 + x/2 + x^2/3), x = h lambda, and K cancels both terms."""
    problem, x = quadratic((2.0,)), 0.2
    tx = ia.with_bias(ia.GradientDescent(0.1), problem.loss, -1.0, order=2)
    _, (state,) = train(tx, problem.loss, problem.params, 1)
    # The plain flow's step is exp(-x) = 1 - x (1 + K), K = -x/2 + x^2/6.
    np.testing.assert_allclose(state.validity, max(x / 2 + x**2 / 3, x / 2 - x**2 / 6), rtol=1e-10)
    tx = ia.with_bias(ia.GradientDescent(0.1), problem.loss, -1.0, order=0)
    _, (state,) = train(tx, problem.loss, problem.params, 1)
    assert float(state.validity) == 0


@pytest.mark.parametrize(("curvature", "warns"), [(1.98, False), (2.02, True)])
def test_an_added_bias_as_large_as_the_flow_is_warned_of_once(curvature, warns):
    problem = quadratic((curvature,))
    tx = ia.with_bias(ia.GradientDescent(1.0), problem.loss, -1.0)
    if warns:
        with pytest.warns(ia.OutsideRangeWarning, match=r"order 1 .* 1\.01 times") as seen:
            _, states = train(tx, problem.loss, problem.params, 3)
        assert len(seen) == 1
    else:
        _, states = train(tx, problem.loss, problem.params, 3)
    np.testing.assert_allclose(states[-1].validity, curvature / 2, rtol=1e-12)


def test_inside_jit_there_is_the_number_alone_and_a_scan_carries_it():
    problem = quadratic((4.0,))
    tx = ia.with_bias(ia.GradientDescent(1.0), problem.loss, -1.0)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(problem.loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), state.validity

    (_, state), sizes = jax.lax.scan(step, (problem.params, tx.init(problem.params)), jnp.arange(3))
    np.testing.assert_allclose(sizes, [2.0] * 3, rtol=1e-12)
    assert float(state.validity) == float(sizes[-1])


def test_the_size_of_a_correction_does_not_vanish_with_the_gradient():
    """In float32 the square of 1e-23 is 0."""
    start = jnp.full(2, 1e-23, jnp.float32)
    run = ia.flow(ia.GradientDescent(0.4), lambda theta: jnp.sum(theta**2), start, 2)
    np.testing.assert_allclose(run.validity[-1], 0.4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_parameters_have_a_float32_optimizer(dtype):
    """A second moment in bfloat16 would stand still, and a bias of a thousandth of the update round away."""
    loss = lambda theta: jnp.sum(jnp.asarray([1.0, 2.0, 3.0], theta.dtype) * theta**2)
    rule, start = ia.Adam(0.01, 0.9, 0.999, 0.1, eps_in_sqrt=True), jnp.asarray([1.0, -0.5, 0.25], dtype)
    points, states = train(ia.with_bias(rule, loss, 0.0), loss, start, 6)
    twin = ia.iterate(rule, loss, start, 5).params
    rounding = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(jnp.stack(points).astype(float), twin.astype(float), rtol=rounding)
    assert states[-1].optimizer[0].nu.dtype == jnp.float32
    with jax.numpy_dtype_promotion("standard"):
        own, changed = (
            (tx := ia.with_bias(rule, loss, strength)).update(jax.grad(loss)(start), tx.init(start), start)[0]
            for strength in (0.0, -1.0)
        )
    assert changed.dtype == jnp.float32
    # What is added is -h (f_1 h) of the field, to the rounding of the update.
    plain, corrected = (ia.vector_field(rule, loss, order=q)(0, start.astype(jnp.float32)) for q in (0, 1))
    expected = -0.01 * (corrected - plain)
    assert float(jnp.min(jnp.abs(expected))) > 1e-6
    np.testing.assert_allclose(changed - own, expected, rtol=0.01)
