"""Orders 0 to 3 of the modified equation by their slopes: flows, the memoryless map, and the bias added."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.fields.series import value
from implicit_adam.fields.vector_field import exact_terms, raveled_field
from implicit_adam.inputs import checked_inputs
from implicit_adam.runs.interval import interval_step
from tests import examples
from tests.registry import CASES

STEPS = 9
SCHEDULE = examples.random_schedule(STEPS)
RANDOM = {"batches": examples.batches(), "schedule": SCHEDULE}


def chain(h):
    """Weight decay before the momentum, and a root-mean-square of all coordinates: no rule of kernels."""
    scaled = optax.scale_by_rms(decay=0.6, eps=0.1)
    return ia.Optax(
        h, optax.chain(optax.add_decayed_weights(0.2), scaled, optax.trace(0.5), optax.scale(-1.0))
    )


# Of each kind one in full batch (in closed form, by the history, by optax) and on a random schedule.
RUNS = [
    ("full-batch", "rmsprop"),
    ("full-batch", "adamw-eps-outside"),
    ("full-batch", "optax-chain"),
    ("random", "adam-eps-outside"),
    ("random", "optax-chain"),
]


def slopes(error, hs=(1.25e-3, 6.25e-4)):
    """Of error(h), between neighbouring h, per order."""
    errors = np.array([jax.device_get(error(jnp.asarray(h))) for h in hs])
    return np.diff(np.log(errors), axis=0) / np.diff(np.log(hs))[:, None]


def solution(field, h):
    """At the end of each of STEPS steps. A solver looks twice at the field, which is slow to trace."""
    velocity = jax.jit(lambda n, theta: field(n)(theta))
    move = interval_step(lambda n: lambda theta: velocity(n, theta), h)
    return jax.lax.scan(lambda theta, n: (move(n, theta)[0],) * 2, examples.START, jnp.arange(STEPS))[1]


def largest(differences):
    return jnp.max(jnp.linalg.norm(differences, axis=1))


@pytest.mark.parametrize(("schedule", "name"), RUNS)
def test_over_a_fixed_number_of_steps_each_order_gains_a_power_of_h(schedule, name):
    """One more than over a fixed time: the same batches at every h, and so slopes without scatter."""
    orders = (0, 1, 2, 3)
    build = CASES.get(name, chain)
    loss, kwargs = (examples.batch_loss, RANDOM) if schedule == "random" else (examples.full_loss, {})

    @jax.jit
    def error(h):
        inputs = checked_inputs(build(h), loss, examples.START, **kwargs)
        run = ia.iterate(build(h), loss, examples.START, STEPS, **kwargs).params[1:]
        flows = [solution(raveled_field(inputs.rule, inputs.objective, order), h) for order in orders]
        return jnp.stack([largest(flow - run) for flow in flows])

    np.testing.assert_allclose(slopes(error)[-1], np.array(orders) + 2, atol=0.1)


@pytest.mark.parametrize("batched", [False, True], ids=["full-batch", "cyclic"])
def test_over_a_fixed_time_the_flow_of_order_2_is_of_third_order(batched):
    study = ia.convergence(
        CASES["adam"](1.0),
        examples.batch_loss if batched else examples.full_loss,
        examples.START,
        horizon=0.1,
        step_counts=(40, 80, 160, 320),
        orders=(0, 1, 2),
        batches=examples.batches() if batched else None,
    )
    assert all(study.asymptotic.values())
    np.testing.assert_allclose(list(study.slope.values()), [1, 2, 3], atol=0.15)


def test_errors_at_the_rounding_floor_are_left_out_of_the_fit_at_order_2_too():
    kwargs = {"horizon": 0.1, "orders": (2,)}
    start = (CASES["adam"](1.0), examples.full_loss, examples.START)
    study = ia.convergence(*start, step_counts=(100, 200, 400, 4000, 8000), **kwargs)
    assert study.error[2][-1] < 10 * study.rounding_floor[-1]
    above = ia.convergence(*start, step_counts=(100, 200, 400), **kwargs)
    assert study.slope[2] == above.slope[2]
    assert abs(study.slope[2] - 3) < 0.05


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_the_memoryless_map_gains_a_power_of_h_with_every_order(name):
    def errors(h):
        arguments = (CASES[name](h), examples.batch_loss, examples.START, STEPS)
        run = ia.iterate(*arguments, **RANDOM).params
        maps = [ia.memoryless(*arguments, order=order, **RANDOM).params for order in (0, 1, 2, 3)]
        return jnp.stack([largest(G - run) for G in maps])

    np.testing.assert_allclose(slopes(errors)[-1], [2, 3, 4, 5], atol=0.1)


def biased_run(build, h, strength, order, loss, batches, schedule):
    """STEPS steps of an ordinary training loop, the start left out."""
    kwargs = {"batches": batches, "schedule": schedule}
    tx = ia.with_bias(build(h), loss, strength, order=order, **kwargs)

    def step(carry, n):
        params, state = carry
        batch = jax.tree.map(lambda x: x[schedule[n]], batches)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (examples.START, tx.init(examples.START)), jnp.arange(STEPS))[1]


def flow_with_bias(build, h, strength, order, loss, **kwargs):
    """The solution of theta' = f_0 + (1 + strength) (h f_1 + .. + h^order f_order)."""
    training = checked_inputs(build(h), loss, examples.START, **kwargs)
    terms = exact_terms(training.rule, training.objective, order, flow=True)

    def field(n):
        def velocity(theta):
            leading, *others = terms(n)(theta)
            return -leading - (1 + strength) * value((jnp.zeros_like(leading), *others), h)

        return velocity

    return solution(field, h)


@pytest.mark.parametrize("build", [CASES["adam"], chain], ids=["adam", "optax-chain"])
def test_with_bias_an_optimizer_follows_the_flow_of_its_terms_so_weighed(build):
    """With strength -1 that is the plain flow."""
    orders, training = (0, 1, 2), {"loss": examples.batch_loss, **RANDOM}

    @jax.jit
    def error(h, strength):
        runs = [biased_run(build, h, strength, order, **training) for order in orders]
        flow = flow_with_bias(build, h, strength, orders[-1], **training)
        return jnp.stack([largest(run - flow) for run in runs])

    for strength in (-1.0, 0.7):
        found = slopes(lambda h, strength=strength: error(h, strength))[-1]
        np.testing.assert_allclose(found, np.array(orders) + 2, atol=0.1)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_on_a_quadratic_heavy_ball_has_the_larger_root_of_its_characteristic_polynomial(order):
    """theta+ = theta - h g + b (theta - theta-): mu^2 - (1 + b - h lambda) mu + b = 0, velocity log(mu)/h."""
    b, spectrum = 0.6, jnp.asarray([0.5, 1.0, 2.0])
    loss = lambda t: jnp.sum(spectrum * t**2) / 2

    @jax.jit
    def error(h):
        half = (1 + b - h * spectrum) / 2
        exact = jnp.log(half + jnp.sqrt(half**2 - b)) / h
        return jnp.abs(ia.limiting_field(ia.HeavyBall(h, b), loss, order=order)(jnp.ones(3)) - exact)

    hs = (4e-3, 2e-3, 1e-3)
    np.testing.assert_allclose(slopes(error, hs)[-1], order + 1, atol=0.1)
