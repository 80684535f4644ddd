"""Through the edge of stability with two branches: neutral at the threshold, the same below, right beyond."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import implicit_adam as ia
from implicit_adam.fields.carried.carried_field import carried_inputs, carrier_of
from implicit_adam.fields.carried.carrier import carried_velocity
from implicit_adam.fields.carried.two_branch import two_branch_velocity, two_branches
from implicit_adam.paper.edge.networks import convolutions, on_digits
from tests import examples

SETTLED, H = 1e6, 0.1
# Each with a denominator that a small gradient does not change, and the rule that has its threshold.
LINEAR = {
    "gradient descent": (ia.GradientDescent(H), None),
    "nesterov": (ia.Nesterov(H, 0.9), None),
    "rmsprop": (ia.RMSProp(H, 0.9, 0.5, eps_in_sqrt=True), None),
    "nadam": (ia.NAdam(H, 0.9, 0.99, 0.5), None),
    "optax.adamw": (
        ia.Optax(H, optax.adamw(1.0, 0.5, 0.99, eps=0.5, weight_decay=0.3)),
        ia.AdamW(H, 0.5, 0.99, 0.5, weight_decay=0.3),
    ),
}


def parts(rule, loss, params):
    inputs = carried_inputs(rule, loss, params, None, None)
    return inputs, carrier_of(inputs)


def growth(optimizer, twin, ratios):
    """The largest real part of the alternation's eigenvalues about a minimum, per step."""
    rule = optimizer if twin is None else twin
    at_rest = jnp.zeros(1)
    unit = ia.preconditioned_sharpness(rule, lambda x: jnp.sum(x**2) / 2, at_rest, iterations=1).value
    threshold = ia.stability_threshold(rule) / unit
    _, carrier = parts(optimizer, lambda x: threshold * jnp.sum(x**2) / 2, at_rest)

    def jacobian(ratio: Any) -> Any:
        steeper = carrier._replace(
            gradients=lambda x: jax.tree.map(lambda psi: ratio * psi, carrier.gradients(x))
        )
        velocity = two_branch_velocity(steeper, 0, jnp.asarray(0.0))
        S = carrier.start(at_rest)
        flat, unravel = ravel_pytree((at_rest, S))

        def alternating(flat):
            d, D = unravel(flat)
            _, (_, d_dot, D_dot) = velocity(jnp.asarray(SETTLED), at_rest, (S, d, D))
            return ravel_pytree((d_dot, D_dot))[0]

        return jax.jacfwd(alternating)(flat)

    jacobians: Any = jax.jit(jax.vmap(jacobian))
    return np.linalg.eigvals(jacobians(jnp.asarray(ratios))).real.max(axis=1)


@pytest.mark.parametrize("name", LINEAR)
def test_the_alternation_is_neutral_exactly_at_the_threshold(name):
    optimizer, twin = LINEAR[name]
    below, neutral, above = growth(optimizer, twin, [0.98, 1.0, 1.02])
    assert neutral == pytest.approx(0, abs=1e-6)
    assert below < -1e-3
    assert above > 1e-3


@pytest.mark.parametrize(
    "optimizer", [ia.Adam(0.02, 0.5, 0.6, 0.1), ia.Optax(0.02, optax.adam(1.0, 0.5, 0.6, eps=0.1))]
)
def test_without_alternation_it_is_the_equation_with_carried_memory(optimizer):
    inputs, carrier = parts(optimizer, examples.full_quartic, examples.START)
    tau = jnp.asarray(5.0)
    theta, memory = jax.lax.fori_loop(
        0, 5, lambda n, state: carrier.step(n, *state), (inputs.theta, carrier.start(inputs.theta))
    )
    plain = jax.jit(carried_velocity(carrier, 1))(tau, theta, memory)
    closed = jax.jit(two_branch_velocity(carrier, 1, jnp.asarray(0.0)))
    none = jax.tree.map(jnp.zeros_like, memory)

    def apart(size):
        c_dot, (S_dot, *_) = closed(tau, theta, (memory, size * jnp.ones_like(theta), none))
        difference = jax.tree.map(jnp.subtract, (c_dot, S_dot), plain)
        return float(jnp.max(jnp.abs(ravel_pytree(difference)[0])))

    assert apart(0.0) < 1e-14
    # Of second order in the half-difference: the floor leaves rounding.
    assert np.log2(apart(2e-3) / apart(1e-3)) == pytest.approx(2, abs=0.05)


def test_the_branches_start_with_what_alternates_in_the_optimizers_own_steps():
    loss = lambda x: 5.2 * jnp.sum(x**2)
    inputs, carrier = parts(ia.GradientDescent(0.19), loss, jnp.ones(1))
    centre, (_, d, _) = two_branches(carrier, 0, inputs.theta, carrier.start(inputs.theta), jnp.asarray(0.0))
    np.testing.assert_allclose(d, 1.0, rtol=0.1)
    np.testing.assert_allclose(centre, 0.0, atol=0.1)


def valley(x):
    """Two factors of 1: along its minima x y = 1 the sharpness x^2 + y^2 changes."""
    return (1 - x[0] * x[1]) ** 2 / 2


def test_beyond_the_edge_the_optimizer_leaves_a_sharp_minimum_and_so_does_the_closure():
    """The threshold is 8, the start at 8.1; the optimizer enters the edge, and leaves it where it is flat."""
    optimizer = ia.HeavyBall(0.375, 0.5)
    start, steps = jnp.asarray([2.82, 0.36]), 400
    end = ia.iterate(optimizer, valley, start, steps, save_every=steps).params[-1]
    absolute = diffrax.PIDController(1e-3, 1e-6)
    carried = ia.carried_flow(
        optimizer,
        valley,
        start,
        steps,
        save_every=steps,
        solver=diffrax.Bosh3(),
        stepsize_controller=absolute,
    )
    closed = ia.carried_flow(optimizer, valley, start, steps, save_every=steps, closure="two-branch")
    assert jnp.linalg.norm(closed.params[-1] - end) < jnp.linalg.norm(carried.params[-1] - end) / 3
    assert jnp.sum(carried.params[-1] ** 2) > 8 > jnp.sum(closed.params[-1] ** 2)
    # It reached a tenth.
    assert float(jnp.linalg.norm(closed.alternating[-1])) < 1e-4


def test_two_directions_may_alternate_at_once():
    """Two valleys side by side, each entered above the threshold of 8 and left where it is flatter."""
    optimizer, steps = ia.HeavyBall(0.375, 0.5), 400
    start = jnp.asarray([2.82, 0.36, 2.9, 0.345])

    def both(x):
        return valley(x[:2]) + valley(x[2:])

    def sharpness(x):
        return jnp.sum(x.reshape(2, 2) ** 2, axis=1)

    end = ia.iterate(optimizer, both, start, steps, save_every=steps).params[-1]
    absolute = diffrax.PIDController(1e-3, 1e-6)
    smooth: Any = {"solver": diffrax.Bosh3(), "stepsize_controller": absolute}
    carried = ia.carried_flow(optimizer, both, start, steps, save_every=steps, **smooth)
    closed = ia.carried_flow(optimizer, both, start, steps, closure="two-branch")

    def off(flow):
        return jnp.linalg.norm((flow.params[-1] - end).reshape(2, 2), axis=1)

    assert bool(jnp.all(off(closed) < off(carried) / 3))
    assert bool(jnp.all(sharpness(start) > 8))
    assert bool(jnp.all(sharpness(carried.params[-1]) > 7.9))
    assert bool(jnp.all(sharpness(closed.params[-1]) < 7.9))
    # Both swing at once, along y.
    assert bool(jnp.any(jnp.all(jnp.abs(closed.alternating[:, 1::2]) > 0.01, axis=1)))


def test_lanes_and_derivatives():
    def end(h):
        flow = ia.carried_flow(
            ia.HeavyBall(h, 0.5), valley, jnp.asarray([1.5, 0.4]), 20, save_every=20, closure="two-branch"
        )
        return flow.params[-1]

    lanes = jax.jit(jax.vmap(lambda h: jax.jvp(end, (h,), (jnp.ones_like(h),))))
    points, slopes = lanes(jnp.asarray([0.1, 0.1 + 1e-5, 0.1 - 1e-5]))
    np.testing.assert_allclose(slopes[0], (points[1] - points[2]) / 2e-5, rtol=0.05, atol=1e-3)


def test_what_it_cannot_do_is_refused_in_words():
    arguments = (ia.Adam(1e-3), valley, jnp.ones(2), 20)
    with pytest.raises(ValueError, match=r"'two-branch', got 'rod'"):
        ia.carried_flow(*arguments, closure="rod")
    with pytest.raises(ValueError, match="leave it out"):
        ia.carried_flow(*arguments, floor=1e-6)
    with pytest.raises(ValueError, match="floor"):
        ia.carried_flow(*arguments, closure="two-branch", floor=0.0)
    with pytest.raises(ValueError, match="floor must be a scalar"):
        ia.carried_flow(*arguments, closure="two-branch", floor=jnp.ones(2))
    with pytest.raises(ValueError, match="after which the solver gives up"):
        ia.carried_flow(*arguments[:3], 70_000, closure="two-branch", save_every=70_000)
    with pytest.raises(ValueError, match="is for full batch"):
        ia.carried_flow(
            ia.Adam(1e-3), examples.batch_loss, examples.START, 20,
            batches=examples.batches(), closure="two-branch",
        )  # fmt: skip
    with pytest.raises(ValueError, match="the gradient of the step before"):
        ia.carried_flow(ia.Optax(1e-3, optax.adan(1.0)), *arguments[1:], closure="two-branch")


@pytest.mark.parametrize(("order", "curvature"), [(1, 3.0), (0, 3.0)])
def test_what_alternates_grows_by_its_factor_in_a_step(order, curvature):
    # Gradient descent with h lambda = 3: d becomes -(1 - 3) d = 2 d, far past its threshold of 2.
    run = ia.carried_flow(
        ia.GradientDescent(1.0),
        lambda x: curvature * jnp.sum(x**2) / 2,
        jnp.full(1, 1e-3),
        24,
        order=order,
        start=4,
        save_every=1,
        closure="two-branch",
    )
    d = jnp.abs(run.alternating[:, 0])
    np.testing.assert_allclose(d[10:] / d[9:-1], curvature - 1, rtol=0.01)


def test_a_fast_burst_leaves_finite_numbers():
    """A square that grows tenfold in a step was not there two steps ago, on a line through both."""
    loss, params = on_digits(convolutions((6, 12)), 20)
    run = ia.carried_flow(ia.Adam(2e-3, 0.5, 0.99), loss, params, 90, save_every=90, closure="two-branch")
    assert run.finite
    assert jax.vmap(loss)(run.params)[-1] < loss(params)


def test_a_closure_that_rests_where_the_optimizer_runs_away_is_flagged():
    """Gradient descent on -x^4 grows by more than a factor of e a step, without alternating."""
    options = {"save_every": 25, "closure": "two-branch"}
    rule, start = ia.GradientDescent(0.01), jnp.ones(1)
    run = ia.carried_flow(rule, lambda x: -jnp.sum(x**4), start, 100, **options)
    assert bool(jnp.all(jnp.isfinite(run.params)))
    assert not bool(run.finite)
    assert not bool(ia.iterate(rule, lambda x: -jnp.sum(x**4), start, 100).finite)
    assert bool(ia.carried_flow(rule, lambda x: jnp.sum(x**4), start, 100, **options).finite)
