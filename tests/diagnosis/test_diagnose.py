"""What a diagnosis says is so: the split, the rates, the edge, the noise, and which equation predicts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.diagnosis import verdict
from implicit_adam.diagnosis.moment import _of_transformation
from implicit_adam.diagnosis.norms import _eps
from implicit_adam.fields.carried.carried_field import carried_inputs
from tests import examples
from tests.fields.test_carried import NET, net_loss

USUAL = ia.Adam(2.5e-3)
QUICK = {"horizon": 8, "iterations": 9}


@functools.cache
def usual_run(steps=60):
    """The point and the state of `optax.adam` at usual settings."""
    tx = optax.adam(2.5e-3)

    @jax.jit
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(net_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    points, state = [NET], tx.init(NET)
    for _ in range(steps + 1):
        params, new = step(points[-1], state)
        if len(points) == steps + 1:
            return points[-1], state, (params - points[-2]) / 2
        points, state = [*points, params], new
    raise AssertionError


@functools.cache
def usual():
    params, state, _ = usual_run()
    return ia.diagnose(USUAL, net_loss, params, opt_state=state, k=2, **QUICK)


@functools.cache
def of_transformation():
    params, state, _ = usual_run()
    return ia.diagnose(optax.adam(2.5e-3), net_loss, params, opt_state=state, k=2, **QUICK)


def test_at_usual_settings_the_carried_memory_predicts_and_the_others_do_not():
    assert usual().equation == "carried"
    assert usual().error["carried"] < 1e-3
    assert min(usual().error["plain"], usual().error["corrected"]) > 0.1
    assert usual().step == 60
    assert "carried memory" in usual().verdict


def test_the_parts_sum_to_the_velocity_which_is_how_far_a_step_moves():
    params, (adam, _), moved = usual_run()
    found = usual()
    parts = ia.carried_field(USUAL, net_loss).decompose(60 * USUAL.h, (params, ((adam.mu,), (adam.nu,))))
    np.testing.assert_allclose(found.step_correction, parts.step, rtol=1e-6, atol=1e-12)
    total = found.instant + found.minibatch + jnp.sum(found.memory, 0) + found.decay + found.step_correction
    np.testing.assert_allclose(total, found.velocity, rtol=1e-12)
    assert jnp.linalg.norm(2.5e-3 * found.velocity - moved) < 2e-3 * jnp.linalg.norm(moved)
    np.testing.assert_allclose(found.speed, jnp.linalg.norm(found.velocity) / jnp.linalg.norm(found.instant))


def test_a_transformation_is_found_to_do_what_its_rule_does():
    """In steps in place of time: its step size is its learning rate."""
    rule, tx = usual(), of_transformation()
    assert tx.equation == rule.equation
    # The error of the carried memory is what is left of nearly equal numbers.
    for name, rtol in (("plain", 1e-3), ("corrected", 1e-3), ("carried", 0.05)):
        np.testing.assert_allclose(tx.error[name], rule.error[name], rtol=rtol)
    np.testing.assert_allclose(tx.velocity, 2.5e-3 * rule.velocity, rtol=1e-8)
    np.testing.assert_allclose(tx.instant, 2.5e-3 * rule.instant, rtol=1e-6)
    # Its denominator is that of the step to come, a rule's that of the last.
    np.testing.assert_allclose(tx.edge, rule.edge, rtol=0.02)
    np.testing.assert_allclose(tx.threshold, 38, rtol=1e-6)
    np.testing.assert_allclose(tx.norms["one_norm"].bias, 2.5e-3 * rule.norms["one_norm"].bias, rtol=1e-5)


def test_curvature_is_that_of_the_preconditioned_sharpness_with_the_runs_own_state():
    params, state, _ = usual_run()
    expected = ia.preconditioned_sharpness(USUAL, net_loss, params, opt_state=state, k=2, iterations=9)
    np.testing.assert_allclose(usual().preconditioned_sharpness, expected.value, rtol=1e-6)
    np.testing.assert_allclose(usual().threshold, ia.stability_threshold(USUAL, 59), rtol=1e-9)


def test_the_sharpness_of_the_update_is_the_curvature_in_its_direction():
    params, (adam, _), _ = usual_run()
    u = usual().velocity
    Hu = jax.jvp(jax.grad(net_loss), (params,), (u,))[1]
    R = (jnp.sqrt(adam.nu / (1 - 0.999**60)) + 1e-8) * (1 - 0.9**60)
    np.testing.assert_allclose(usual().update_sharpness, u @ Hu / (u @ (R * u)), rtol=1e-9)
    assert usual().update_sharpness < usual().preconditioned_sharpness[0]
    assert f"{usual().update_sharpness / usual().threshold:.2g} along the update" in usual().verdict


def test_norms_change_at_the_rates_said():
    params, found = usual_run()[0], usual()
    norms = {
        "one_norm": lambda g: jnp.sum(jnp.abs(g)),
        "two_norm": jnp.linalg.norm,
        "perturbed_one_norm": lambda g: jnp.sum(jnp.sqrt(g**2 + 1e-16)),
    }
    bias = jnp.sum(found.memory, 0) + found.step_correction
    for name, norm in norms.items():
        of_point = lambda params, norm=norm: norm(jax.grad(net_loss)(params))
        np.testing.assert_allclose(found.norms[name].value, of_point(params), rtol=1e-12)
        for rate, along in ((found.norms[name].velocity, found.velocity), (found.norms[name].bias, bias)):
            np.testing.assert_allclose(rate, jax.jvp(of_point, (params,), (along,))[1], rtol=1e-9)


SPECTRUM = jnp.asarray([0.5, 1.0, 4.0])
quadratic = lambda theta: jnp.sum(SPECTRUM * theta**2) / 2


@functools.cache
def gradient_descent(h):
    return ia.diagnose(ia.GradientDescent(h), quadratic, examples.START, horizon=8, iterations=3)


def test_the_edge_of_gradient_descent_is_two_over_h():
    for h in (1e-3, 0.45, 0.55):
        np.testing.assert_allclose(gradient_descent(h).edge, h * 4 / 2, rtol=1e-6)


@pytest.mark.parametrize(("h", "equation"), [(1e-4, "plain"), (0.1, "corrected"), (0.55, "past the edge")])
def test_gradient_descent_needs_more_the_longer_its_steps(h, equation):
    found = gradient_descent(h)
    assert found.equation == equation, found
    assert ("above the edge" in found.verdict) == (equation == "past the edge")


def test_a_correction_is_needed_where_the_step_makes_it_and_not_before():
    found = gradient_descent(0.1)
    assert found.error["corrected"] < found.error["plain"] / 10


def noisy(theta, batch):
    push, rates = batch
    return jnp.sum(rates * theta**2) / 2 + push @ theta


def in_batches(h, push, rates):
    """Seven steps of two mini-batches: one of them comes once more, by chance."""
    run = {"batches": (push, rates), "horizon": 7, "iterations": 3}
    return ia.diagnose(ia.HeavyBall(h, 0.5), noisy, examples.START, **run)


@functools.cache
def with_noise(size):
    """Two mini-batches whose gradients are the mean and a vector of this size, with either sign."""
    push = size * jnp.asarray([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    return in_batches(1e-4, push, jnp.stack([SPECTRUM, SPECTRUM]))


def test_the_noise_is_the_variance_over_the_square_of_the_mean():
    for size in (0.01, 300.0):
        found = with_noise(size)
        # After ten steps of 1e-4 the point has hardly moved.
        g = SPECTRUM * examples.START
        np.testing.assert_allclose(found.noise, size**2 / (g @ g), rtol=0.02)
        np.testing.assert_allclose(found.minibatch, jnp.zeros(3), atol=1e-9)


CURVED = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 1.0, 0.5]])


def test_the_sharpness_of_batches_is_theirs_along_their_own_gradients():
    """Over R = 1 - beta, which heavy ball is preconditioned with."""
    found = in_batches(1e-5, jnp.zeros((2, 3)), CURVED)
    g = CURVED * examples.START[None]
    expected = jnp.mean(jnp.sum(CURVED * g**2, 1) / jnp.sum(g**2, 1)) / 0.5
    np.testing.assert_allclose(found.batch_sharpness, expected, rtol=1e-3)
    assert "in a mini-batch along its own gradient" in found.verdict
    assert np.isnan(usual().batch_sharpness)


def test_in_float32_a_step_number_of_a_million_is_no_rounding_of_time():
    """Of an optimizer that counts no steps, which is taken to be late in its run."""
    params = examples.START.astype(jnp.float32)
    rule, loss = ia.HeavyBall(1e-2, 0.9), lambda x: jnp.sum(SPECTRUM.astype(x.dtype) * x**2) / 2
    _, state = first_steps(rule, loss, params)
    found = ia.diagnose(rule, loss, params, opt_state=state, horizon=8, iterations=3)
    assert found.step == 1_000_000
    assert found.error["carried"] < 1e-4


def first_steps(rule, loss, params, steps=3):
    """The optimizer's first steps."""
    tx = rule.transformation()
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def drifting(theta):
    """Across the valley, along x, its curvature is 4 + y; along y only x^2 moves the point."""
    x, y = theta
    return x**2 * (4 + y) / 2


def test_past_the_edge_the_centre_is_that_of_two_branches():
    """Fifty steps into a schedule that began with half the step."""
    rule = ia.Scheduled(ia.GradientDescent(0.5), lambda n: jnp.where(n < 25, 0.5, 1.0))
    params = jnp.asarray([0.05, 0.0])
    state = optax.tree_utils.tree_set(rule.transformation().init(params), count=jnp.asarray(50))
    found = ia.diagnose(rule, drifting, params, opt_state=state, horizon=8, iterations=2)
    assert found.step == 50
    assert found.equation == "past the edge"
    assert found.error["two-branch"] < 0.02
    assert "centre follows the closure with two branches" in found.verdict
    off = found._replace(error=found.error | {"two-branch": np.asarray(0.5)})
    assert "two branches" not in off.verdict
    assert np.isnan(gradient_descent(0.1).error["two-branch"])


def test_where_orders_matter_more_than_the_way_only_the_mean_is_predicted():
    loud = with_noise(300.0)
    assert loud.equation == "noise-dominated"
    assert "mean over random orders" in loud.verdict
    assert with_noise(0.01).equation == "plain"


def test_what_is_not_known_is_not_said_to_hinder():
    for bias in (0.0, np.nan):
        rate = usual().norms["one_norm"]._replace(bias=bias)
        said = usual()._replace(norms={"one_norm": rate}).verdict
        assert "zero or not known" in said
        assert "hinder" not in said


def test_where_the_solver_takes_the_optimizers_own_steps_its_error_is_said_to_say_little():
    assert 0 < int(usual().leaps) < 8
    assert "says little" not in usual().verdict
    for equation in ("carried", "past the edge", "none"):
        assert "says little" in usual()._replace(equation=equation, leaps=np.asarray(8)).verdict
    assert "says little" not in usual()._replace(equation="plain", leaps=np.asarray(8)).verdict


def test_a_memory_of_squares_that_lags_is_warned_of():
    params, (adam, rest), _ = usual_run()
    lagging = (adam._replace(nu=adam.nu * 1e-4), rest)
    found = ia.diagnose(USUAL, net_loss, params, opt_state=lagging, k=2, **QUICK)
    assert found.speed > 10
    assert "lags behind" in found.verdict
    assert "lags behind" not in usual().verdict


def test_without_a_state_the_optimizer_takes_ten_steps_first():
    fresh = ia.diagnose(USUAL, net_loss, NET, k=2, **QUICK)
    params, state, _ = usual_run(10)
    given = ia.diagnose(USUAL, net_loss, params, opt_state=state, k=2, **QUICK)
    assert fresh.step == given.step == 10
    np.testing.assert_allclose(fresh.velocity, given.velocity, rtol=1e-9)


def test_a_scheduled_rule_takes_the_state_of_optax_on_that_schedule():
    schedule = optax.cosine_decay_schedule(2.5e-3, 200)
    rule = ia.Scheduled(ia.AdamW(1.0), schedule)
    inputs = carried_inputs(rule, net_loss, NET, None, None)
    g = jax.grad(net_loss)(NET)
    states = []
    for tx in (optax.adamw(schedule), rule.transformation()):
        with jax.numpy_dtype_promotion("standard"):
            states.append(tx.update(g, tx.init(NET), NET)[1])
    assert jax.tree.structure(states[0]) != jax.tree.structure(states[1])
    chex.assert_trees_all_close(_of_transformation(inputs, states[0]), states[1], rtol=1e-12)


def test_a_scheduled_rule_has_the_eps_of_the_rule_below():
    schedule = optax.constant_schedule(0.5)
    twice = ia.Scheduled(ia.Scheduled(ia.Adam(1.0, eps=0.25), schedule), schedule)
    assert _eps(twice) == 0.25**2


def test_a_state_of_something_else_is_refused():
    params, _, _ = usual_run()
    for state, words in (
        (optax.sgd(0.1, momentum=0.9).init(params), "not a state of this optimizer"),
        (optax.adam(0.1).init(params[:3]), "not a state of this optimizer"),
        (optax.adam(0.1).init(params), "not seen a gradient"),
    ):
        with pytest.raises(ValueError, match=words):
            ia.diagnose(USUAL, net_loss, params, opt_state=state)
    params, state, _ = usual_run()
    for options, words in (
        ({"opt_state": state, "step": 2}, "opt_state has counted 60 steps"),
        ({"step": 60}, "without one the run begins at params"),
        ({"runs": 1}, "runs must be"),
    ):
        with pytest.raises(ValueError, match=words):
            ia.diagnose(USUAL, net_loss, params, **options)
    with pytest.raises(ValueError, match="outside of"):
        jax.jit(lambda params: ia.diagnose(USUAL, net_loss, params).speed)(params)
    with pytest.raises(ValueError, match="horizon must be"):
        ia.diagnose(USUAL, net_loss, params, horizon=2)


def test_its_numbers_are_floats_by_name_and_it_prints_as_words():
    numbers = usual().numbers()
    assert {type(x) for x in numbers.values()} == {float}
    assert numbers["error/carried"] == float(usual().error["carried"])
    assert repr(usual()).startswith("The next 8 steps follow the equation with carried memory")


def test_every_equation_has_words():
    assert set(verdict.EQUATIONS) == set(usual().error)
