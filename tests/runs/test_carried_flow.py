"""Runs with carried memory: leaps, cost, units, precision, lanes, derivatives, mini-batches."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.runs.leaps import RelativeToTheMove
from tests.fields.test_carried import NET, error, net_loss


def rule(h, beta=0.9, rho=0.999, eps=1e-8):
    return ia.Adam(h, beta, rho, eps, eps_in_sqrt=True)


def test_leaps_of_one_step_are_the_optimizers_steps():
    for optimizer in (rule(2.5e-3), ia.NAdam(2.5e-3, eps_in_sqrt=False), ia.AdamW(2.5e-3, weight_decay=0.5)):
        twin = ia.iterate(optimizer, net_loss, NET, 40).params
        leaps = ia.carried_flow(
            optimizer, net_loss, NET, 40, start=0, stepsize_controller=diffrax.ConstantStepSize()
        )
        np.testing.assert_allclose(leaps.params, twin, rtol=1e-9)


def test_leaps_solve_the_equation_that_any_solver_solves():
    tight = diffrax.PIDController(rtol=1e-9, atol=1e-12)
    solved = ia.carried_flow(
        rule(2.5e-3), net_loss, NET, 400, save_every=40, solver=diffrax.Tsit5(), stepsize_controller=tight
    )
    leaps = ia.carried_flow(rule(2.5e-3), net_loss, NET, 400, save_every=40)
    assert 0 < error(leaps.params, solved.params) < 1e-3


def test_an_hundredth_of_the_step_costs_as_many_gradients():
    counted = []

    def loss(theta):
        jax.debug.callback(lambda: counted.append(1))
        return net_loss(theta)

    def run(refined):
        counted.clear()
        optimizer = rule(2.5e-3 / refined, 1 - 0.1 / refined, 1 - 1e-3 / refined)
        steps = 400 * refined
        flow = ia.carried_flow(optimizer, loss, NET, steps, save_every=steps // 4)
        jax.block_until_ready(flow)
        jax.effects_barrier()
        gradients = len(counted)
        iterates = ia.iterate(optimizer, net_loss, NET, steps, save_every=steps // 4).params
        return gradients, error(flow.params, iterates)

    (coarse, coarse_error), (fine, fine_error) = run(1), run(100)
    assert coarse < 400 / 2
    assert fine < 1.5 * coarse
    assert max(coarse_error, fine_error) < 2e-3


def test_units_do_not_matter():
    s = 1024.0
    here = ia.carried_flow(rule(2.5e-3), net_loss, NET, 200, save_every=50)
    there = ia.carried_flow(
        rule(2.5e-3 * s, eps=1e-8 / s**2), lambda x: net_loss(x / s), NET * s, 200, save_every=50
    )
    np.testing.assert_allclose(there.params, s * here.params, rtol=1e-9)


def test_single_precision_follows_double():
    double = ia.carried_flow(rule(2.5e-3), net_loss, NET, 200, save_every=50)
    single = ia.carried_flow(
        rule(jnp.asarray(2.5e-3, jnp.float32)),
        lambda theta: net_loss(theta.astype(float)).astype(jnp.float32),
        NET.astype(jnp.float32),
        200,
        save_every=50,
    )
    assert single.params.dtype == single.t.dtype == jnp.float32
    assert error(single.params.astype(float), double.params) < 1e-3


def test_lanes_and_derivatives_in_both_modes():
    def end(h, beta, theta):
        return ia.carried_flow(rule(h, beta, 0.99, 1e-4), net_loss, theta, 60, save_every=60, start=5).params[
            -1
        ]

    at = (jnp.asarray(2.5e-3), jnp.asarray(0.8), NET)
    forward = jax.jacfwd(end, (0, 1, 2))(*at)
    backward = jax.jacrev(end, (0, 1, 2))(*at)
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    betas = jnp.asarray([0.8, 0.8 + 1e-4, 0.8 - 1e-4])
    lanes = jax.jit(jax.vmap(lambda beta: end(at[0], beta, NET)))(betas)
    np.testing.assert_allclose(lanes[0], end(*at), rtol=1e-12)
    np.testing.assert_allclose(forward[1], (lanes[1] - lanes[2]) / 2e-4, rtol=0.05, atol=1e-5)


def test_what_is_saved_early_is_the_optimizers_and_memories_come_where_asked():
    flow = ia.carried_flow(rule(2.5e-3), net_loss, NET, 60, save_every=4, memories=True)
    twin = ia.iterate(rule(2.5e-3), net_loss, NET, 60, save_every=4)
    np.testing.assert_allclose(flow.params[:3], twin.params[:3], rtol=1e-12)
    np.testing.assert_array_equal(flow.t, twin.t)
    (first,), (second,) = flow.memories
    exact = ia.carried_field(rule(2.5e-3), net_loss).start(NET, 60)[1]
    np.testing.assert_allclose(first[-1], exact[0][0], rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(second[-1], exact[1][0], rtol=0.02, atol=1e-7)
    assert ia.carried_flow(rule(2.5e-3), net_loss, NET, 60, save_at=(3, 50)).memories is None


def test_a_diverging_run_is_flagged_and_a_start_that_leaves_nothing_is_refused():
    assert not bool(ia.carried_flow(ia.GradientDescent(1e9), lambda x: jnp.sum(x**4), NET, 100).finite)
    with pytest.raises(ValueError, match="nothing to do"):
        ia.carried_flow(rule(1e-3), net_loss, NET, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": diffrax.Bosh3}, "solver must be a diffrax solver"),
        ({"stepsize_controller": diffrax.PIDController}, "stepsize_controller must be one of diffrax"),
        ({"solver": diffrax.Kvaerno3()}, "give a stepsize_controller as well"),
    ],
)
def test_what_cannot_solve_it_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ia.carried_flow(rule(1e-3), net_loss, NET, 20, **options)


def test_over_mini_batches_it_is_the_mean_run():
    """Within 1% of the distance of an ensemble's mean, where the full-batch equation is far off."""
    optimizer, steps, runs = rule(2e-3, 0.9, 0.99), 300, 64
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(8, 4, 2)))
    targets = jnp.sin(2 * inputs[..., 0]) * inputs[..., 1] + jnp.asarray(rng.normal(size=(8, 4)))

    def loss(theta, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(x @ theta[:6].reshape(2, 3)) @ theta[6:] - y) ** 2)

    batches = (inputs, targets)
    orders = np.stack([np.concatenate([rng.permutation(8) for _ in range(38)])[:steps] for _ in range(runs)])
    ensemble = jax.vmap(
        lambda order: (
            ia.iterate(optimizer, loss, NET, steps, batches=batches, schedule=order, save_every=100).params
        )
    )(jnp.asarray(orders))
    mean = jnp.mean(ensemble, 0)
    carried = ia.carried_flow(optimizer, loss, NET, steps, batches=batches, save_every=100).params
    whole = ia.carried_flow(
        optimizer,
        lambda theta: jnp.mean(jax.vmap(loss, (None, 0))(theta, batches)),
        NET,
        steps,
        save_every=100,
    ).params
    assert error(carried, mean) < 0.01
    assert error(whole, mean) > 0.3


def test_a_leap_to_where_there_is_no_value_is_tried_again_shorter():
    controller = RelativeToTheMove(diffrax.PIDController(1e-3, 0, dtmin=1.0))
    start, first, leap = (jnp.asarray(t) for t in (0.0, 2.0, 4.0))
    order, none = jnp.asarray(2.0), (jnp.zeros(2),)
    _, state = controller.init(None, start, leap, none, first, None, None, order)
    for value, kept in ((jnp.nan, False), (1.0, True)):
        there = (jnp.full(2, value),)
        keep, _, end, *_ = controller.adapt_step_size(start, leap, none, there, None, none, order, state)
        assert bool(keep) is kept
        assert kept or end < leap


def test_it_differentiates_by_what_the_loss_closes_over():
    def end(scale):
        loss = lambda theta: jnp.sum((scale * theta) ** 4) / 4 + jnp.sum(theta**2)
        start = jnp.asarray([1.0, 0.5, -0.3])
        return jnp.sum(
            ia.carried_flow(rule(1e-2, 0.9, 0.99, 1e-3), loss, start, 60, save_every=60).params[-1]
        )

    forward = jax.jvp(end, (1.3,), (1.0,))[1]
    np.testing.assert_allclose(jax.grad(end)(1.3), forward, rtol=1e-9)
    # Leaps change their lengths with the scale, by jumps within the tolerance.
    np.testing.assert_allclose(forward, (end(1.3 + 1e-3) - end(1.3 - 1e-3)) / 2e-3, rtol=0.01)
