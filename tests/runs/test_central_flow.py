"""The central flow: solvable valleys, the identities behind it, and a network held at its edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.carried.carried_field import carried_inputs, carrier_of
from implicit_adam.fields.edge.central import Edge, Oscillation, slack_rate, turned
from implicit_adam.runs.central_flow import checked_edge

SLOPE, SHARPER = 0.02, 2.0


def valley(theta):
    """Down the valley, along y, it becomes sharper: E = s(y) x^2 / 2 - SLOPE y, s = 1 + SHARPER y."""
    x, y = theta
    return (1 + SHARPER * y) * x**2 / 2 - SLOPE * y


def along_x(run):
    """Sigma_xx."""
    return run.covariance[:, 0, 0] * run.directions[:, 0, 0] ** 2


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_momentum_stops_in_the_valley_where_it_must(beta):
    """At its threshold, s = 2 (1+beta) / h, with Sigma_xx = 2 SLOPE / SHARPER: there the mean gradient is 0.

    It gets there without swinging, however long the memory is.
    """
    h = 0.2 * (1 + beta)
    run = ia.central_flow(
        ia.HeavyBall(h, beta), valley, jnp.asarray([0.01, 2.0]), 1200, directions=1, save_every=20
    )
    sigma = along_x(run)
    np.testing.assert_allclose(run.edge[-1], 1, rtol=1e-5)
    np.testing.assert_allclose(1 + SHARPER * run.params[-1, 1], 10, rtol=1e-5)
    np.testing.assert_allclose(sigma[-1], 2 * SLOPE / SHARPER, rtol=1e-4)
    np.testing.assert_allclose(run.mean_loss[-1], valley(run.params[-1]) + 5 * sigma[-1], rtol=1e-9)
    assert np.max(run.edge) < 1 + 1e-4
    assert np.max(sigma) < 2 * SLOPE / SHARPER * (1 + 1e-3)


def test_lanes_and_forward_derivatives():
    """Where it stops, 1 + SHARPER y = 3 / h."""

    def stops(h):
        start = jnp.asarray([0.01, 3.0])
        return ia.central_flow(ia.HeavyBall(h, 0.5), valley, start, 400, directions=1, save_every=400).params[
            -1, 1
        ]

    h = jnp.asarray([0.3, 0.28])
    y, slope = jax.jit(jax.vmap(lambda h: jax.jvp(stops, (h,), (jnp.ones_like(h),))))(h)
    np.testing.assert_allclose(y, (3 / h - 1) / SHARPER, rtol=1e-5)
    np.testing.assert_allclose(slope, -3 / h**2 / SHARPER, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_adam_keeps_the_one_amplitude_at_which_its_curvature_is_bearable(beta):
    """v_x = s^2 Sigma_xx, so that s / sqrt(v_x) is the threshold, whatever s; and y goes on by h a step."""
    h, steps = 0.01, 1200
    rule = ia.Adam(h, beta, 0.8, 1e-8)
    run = ia.central_flow(rule, valley, jnp.asarray([1e-3, 3.0]), steps, directions=1, save_every=100)
    sigma = along_x(run)
    np.testing.assert_allclose(sigma[-1], (h * (1 - beta) / (2 * (1 + beta))) ** 2, rtol=0.01)
    np.testing.assert_allclose(run.params[-1, 1] - run.params[-2, 1], 100 * h, rtol=1e-3)


ADAM = ia.Adam(0.004, 0.5, 0.99)


def network(width):
    """The loss of a two-layer tanh network on a sine, and where to start."""
    x = jnp.linspace(-2.0, 2.0, 20)
    y, keys = 2 * jnp.sin(3 * x), jax.random.split(jax.random.key(0), 3)
    params = {name: jax.random.normal(key, (width,)) for name, key in zip(("in", "shift", "out"), keys)}  # noqa: B905
    params["out"] = 0.3 * params["out"]

    def loss(params):
        z = jnp.outer(x, params["in"]) + jnp.broadcast_to(params["shift"], (20, width))
        return jnp.mean((jnp.tanh(z) @ params["out"] - y) ** 2) / 2

    return loss, params


@pytest.fixture(scope="module")
def oscillating():
    """A network of nine parameters after five steps, its edge, and two directions there."""
    inputs = carried_inputs(ADAM, *network(3), None, None)
    carrier = carrier_of(inputs)
    edge = Edge(inputs.rule, inputs.objective, carrier, *checked_edge(inputs.rule))
    step = lambda n, state: carrier.step(n, *state)
    c, memory = jax.lax.fori_loop(0, 5, step, (inputs.theta, carrier.start(inputs.theta)))
    drawn = jax.random.normal(jax.random.key(0), (2, 9))
    unknown = Oscillation(drawn, drawn, jnp.zeros((2, 2, 9)), jnp.eye(2))
    turning = jax.jit(lambda old: turned(old, edge, jnp.asarray(5.0), c, memory, drawn, 5))
    found = turning(unknown)
    return edge, found, c, memory, turning


def test_the_mean_over_an_oscillation_is_that_of_two_points_up_to_the_fourth_order(oscillating):
    edge, found, c, *_ = oscillating
    gradient = lambda theta: edge.objective.gradients(theta)[0]

    def apart(size):
        a = size * jnp.asarray([1.0, -0.5])
        delta = a @ found.directions
        mean = found._replace(X=jnp.outer(a, a)).mean_features(edge.rule, gradient(c))
        seen = [edge.rule.features(gradient(c + sign * delta)) for sign in (1, -1)]
        return [jnp.linalg.norm((p + q) / 2 - r) for p, q, r in zip(*seen, mean, strict=True)]

    sizes = jnp.asarray([0.02, 0.01])
    errors = jax.jit(jax.vmap(apart))(sizes)
    for error in errors:
        assert float(jnp.log2(error[0] / error[1])) == pytest.approx(4, abs=0.1)


def test_the_covariance_stays_as_the_directions_turn(oscillating):
    _, found, _, _, turning = oscillating
    X = jnp.asarray([[3.0, 1.0], [1.0, 2.0]])
    swapped = found._replace(directions=found.directions[::-1] * jnp.asarray([[1.0], [-1.0]]), X=X)
    old, new = (u.T @ its @ u for u, its in ((one.directions, one.X) for one in (swapped, turning(swapped))))
    np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6 * jnp.max(jnp.abs(old)))
    assert jnp.max(jnp.abs(turning(swapped).X - X)) > 0.5


def test_the_rate_of_the_slack_is_the_derivative_of_the_slack(oscillating):
    """Against dense derivatives and Adam's own formulas, with its momentum settled."""
    edge, found, c, memory, _ = oscillating
    h, beta, rho, eps = ADAM.h, ADAM.beta, ADAM.rho, ADAM.eps
    u, X, tau = found.directions, jnp.asarray([[3e-5, 1e-5], [1e-5, 2e-5]]), jnp.asarray(5.0)
    E = lambda theta: edge.objective.loss(theta, None)

    def R(tau, v):
        return (jnp.sqrt(v / (1 - rho**tau)) + eps) * (1 - beta**tau)

    def slack(tau, c, v):
        return (u * R(tau, v)[None]) @ u.T - u @ jax.hessian(E)(c) @ u.T / edge.threshold

    @jax.jit
    def both():
        Sigma = u.T @ X @ u
        g, H = jax.grad(E)(c), jax.hessian(E)(c)
        g = g + jnp.einsum("ijk,ij->k", jax.jacfwd(jax.hessian(E))(c), Sigma) / 2
        v = memory[1][0]
        moved = (jnp.ones_like(tau), -h * g / R(tau, v), -jnp.log(rho) * (g**2 + jnp.diag(H @ Sigma @ H) - v))
        derivative = jax.jvp(slack, (tau, c, v), moved)[1]
        return (
            derivative,
            slack(tau, c, v),
            slack_rate(found._replace(X=X), edge, tau, c, memory, jax.grad(E)(c)),
        )

    derivative, at, rate = both()
    np.testing.assert_allclose(at, jnp.eye(2) - found.curvature() / edge.threshold, atol=1e-12)
    np.testing.assert_allclose(rate, derivative, rtol=1e-9)


def test_a_network_is_held_at_its_edge_and_the_mean_path_is_right():
    """Of 60 parameters; at the edge after 480 steps, and two directions oscillate after 650."""
    loss, params = network(20)
    steps, every = 1000, 10
    run = ia.iterate(ADAM, loss, params, steps + 1)
    flow = ia.central_flow(ADAM, loss, params, steps, directions=3, save_every=every)
    assert flow.finite
    np.testing.assert_allclose(flow.edge[-40:, 0], 1, atol=1e-3)
    assert float(jnp.min(jnp.linalg.eigvalsh(flow.covariance[-20:])[:, -2])) > 0
    points = jnp.concatenate(jax.tree.leaves(run.params), axis=1)
    centres = (points[:-2] + 2 * points[1:-1] + points[2:]) / 4
    found = jnp.concatenate(jax.tree.leaves(flow.params), axis=1)
    error = jnp.linalg.norm(found[1:] - centres[every - 1 :: every], axis=1)
    distance = jnp.linalg.norm(centres[-1] - points[0])
    assert error[-1] < 0.01 * distance
    # Below the edge it is the equation with carried memory.
    assert jnp.max(error[:40]) < 2e-4 * distance
    losses = jax.lax.map(loss, run.params)
    for n in (700, 800, 900, 1000):
        stretch = flow.mean_loss[(n - 100) // every : n // every + 1]
        predicted = jnp.mean((stretch[1:] + stretch[:-1]) / 2)
        np.testing.assert_allclose(predicted, jnp.mean(losses[n - 100 : n]), rtol=0.02)


def test_what_has_no_central_flow_is_refused_in_words():
    start = jnp.ones(2)
    with pytest.raises(ValueError, match="no linear function of its memory"):
        ia.central_flow(ia.Lion(0.1), valley, start, 20)
    with pytest.raises(ValueError, match="more than one memory"):
        ia.central_flow(ia.AdEMAMix(0.1), valley, start, 20)
    with pytest.raises(ValueError, match="one threshold"):
        ia.central_flow(ia.Scheduled(ia.Adam(0.1), lambda n: 1.0 / (1 + n)), valley, start, 20)
    with pytest.raises(ValueError, match="directions = 3 of 2 parameters"):
        ia.central_flow(ia.Adam(0.1), valley, start, 20, directions=3)
    with pytest.raises(ValueError, match="start"):
        ia.central_flow(ia.Adam(0.1), valley, start, 20, start=0)
    with pytest.raises(ValueError, match="start = 20 of steps = 20"):
        ia.central_flow(ia.Adam(0.1), valley, start, 20, start=20)
    with pytest.raises(ValueError, match=r"ia\.Adam"):
        ia.central_flow("adam", valley, start, 20)
