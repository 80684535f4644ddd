"""What a transformation is, is found by running it: counters, periods, memory, points, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import implicit_adam as ia
from implicit_adam.cli.optax_names import parse_optax
from implicit_adam.rules.optax_checks import check_equation
from implicit_adam.rules.optax_probe import behaviour
from tests import losses, oracles

MOMENTUM = optax.sgd(1.0, momentum=0.4)


def accumulated(tx, k, dtype=float):
    return optax.MultiSteps(tx, k, accumulator_dtype=dtype).gradient_transformation()


def check(tx, window=None, params=losses.START):
    check_equation(ia.Optax(0.1, tx, window), params)


def plain_loop(tx, h, steps):
    """Optax as its own documentation runs it."""
    params, state = losses.START, tx.init(losses.START)
    with jax.numpy_dtype_promotion("standard"):
        for n in range(steps):
            batch = oracles.pick(losses.batches(), n % losses.M)
            updates, state = tx.update(jax.grad(losses.batch_loss)(params, batch), state, params)
            params = params + h * updates
    return params


def test_a_window_knows_the_phase_of_gradient_accumulation():
    """`gradient_step` and the count of Adam go on every second step; the whole history is checked itself."""
    tx = accumulated(optax.adam(1.0, b1=0.1, b2=0.2, eps_root=0.1), 2)
    found = behaviour(tx, losses.START)
    assert found.clock.period == 2
    assert sorted(found.clock.advance)[-3:] == [0, 1, 1]
    whole, cut = (
        ia.optax_vector_field(tx, losses.batch_loss, 0.1, batches=losses.batches(), window=window)
        for window in (None, 19)
    )
    schedule = np.arange(6) % losses.M
    F, DF = oracles.frozen_update_and_derivative(
        tx, losses.batch_loss, losses.batches(), schedule, 5, losses.START
    )
    assert float(jnp.linalg.norm(DF)) > 0.1
    np.testing.assert_allclose(whole(5, losses.START), -(F + 0.1 * DF), rtol=1e-10)
    for n in (41, 42, 43):
        at = jnp.asarray(n)
        np.testing.assert_allclose(
            jax.jit(cut)(at, losses.START), jax.jit(whole)(at, losses.START), rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize(
    "tx",
    [
        accumulated(MOMENTUM, 2),
        accumulated(MOMENTUM, 32),
        optax.sgd(optax.linear_schedule(0.0, 1.0, 5000)),
        optax.sgd(lambda n: jnp.where(n < 500, 0.0, 1.0)),
        optax.chain(optax.clip(2e-5), optax.sgd(1.0)),
    ],
    ids=["every-second", "every-32nd", "long-warm-up", "late-start", "clipped"],
)
def test_an_update_that_responds_seldom_or_late_is_not_taken_for_a_sign(tx):
    check(tx)


def test_a_random_key_is_refused_with_a_window_and_serves_without():
    tx = optax.noisy_sgd(1.0, key=3)
    with pytest.raises(ValueError, match=r"rng_key is unknown.*leave out the window"):
        check(tx, window=10)
    field = ia.optax_vector_field(tx, losses.full_loss, 0.1)
    F, DF = oracles.frozen_update_and_derivative(
        tx, lambda t, _: losses.full_loss(t), jnp.zeros(1), [0] * 3, 2, losses.START
    )
    np.testing.assert_allclose(field(2, losses.START), -(F + 0.1 * DF), rtol=1e-10)


def float_counter():
    """A bias correction whose step number is a floating number."""

    def init(params):
        return jnp.zeros(()), jnp.zeros_like(params)

    def update(g, state, _=None):
        n, m = state[0] + 1, 0.5 * state[1] + 0.5 * g
        return -m / (1 - 0.5**n) * (1 + 1 / n), (n, m)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    "tx",
    [
        float_counter(),
        optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.5, 90), momentum=0.5),
        optax.optimistic_gradient_descent(1.0),
    ],
    ids=["float-counter", "injected-schedule", "first-step-flag"],
)
def test_what_else_follows_the_step_number_is_set_forward_with_a_window(tx):
    cut, exact = (
        ia.optax_vector_field(tx, losses.full_loss, 0.1, window=window)(60, losses.START)
        for window in (40, None)
    )
    np.testing.assert_allclose(cut, exact, rtol=1e-8)


def test_a_window_shorter_than_the_memory_is_refused_with_the_length_it_needs():
    with pytest.raises(ValueError, match=r"decay 0.99 a step where 61%.*take 230 or more"):
        check(optax.adam(1.0, b2=0.99), window=50)
    check(optax.adam(1.0, b2=0.99), window=230)


def root_mean_square_of_all():
    """Divides by the root mean square of all gradients so far: a sum, however it is written."""

    def init(params):
        return jnp.zeros((), jnp.int32), jnp.full_like(params, 0.1)

    def update(g, state, _=None):
        n = state[0] + 1
        mean = state[1] + (g**2 - state[1]) / n.astype(g.dtype)
        return -g / jnp.sqrt(mean), (n, mean)

    return optax.GradientTransformation(init, update)


OUTSIDE = {
    "a sum": (optax.adagrad(1.0), "does not fade.*sum_of_squares"),
    "a maximum": (optax.amsgrad(1.0), "does not fade.*nu_max"),
    "a cover": (optax.sm3(1.0), "does not fade"),
    "a sign inside": (optax.yogi(1.0), "does not fade.*nu"),
    "an average over a power of n": (optax.adafactor(1.0), r"grows with the step number.*v"),
    "an average over all": (root_mean_square_of_all(), "grows with the step number"),
    "a step size from gradients": (optax.contrib.dadapt_adamw(), "does not fade.*estim_lr"),
}


@pytest.mark.parametrize(("tx", "words"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_memory_that_does_not_fade_is_said_to_be_outside_the_theorem(tx, words):
    with pytest.warns(UserWarning, match=words):
        check(tx)
    with pytest.raises(ValueError, match="a window cuts a memory that fades"):
        check(tx, window=1000)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_memory_that_fades_as_slowly_as_a_millionth_a_step_fades(dtype):
    check(optax.rmsprop(1.0, 1 - 1e-6), params=losses.START.astype(dtype))


DIFFERENCES = {
    "sam": optax.contrib.sam(
        optax.adamw(1.0, weight_decay=0.01), optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    ),
    "schedule-free": optax.contrib.schedule_free(optax.sgd(1.0), 1.0, b1=0.5),
    "distance-over-gradients": optax.contrib.dog(),
    "prodigy": optax.contrib.prodigy(),
    "coin betting": optax.contrib.cocob(),
    "mechanize": optax.contrib.mechanize(optax.sgd(1.0)),
    "madgrad": optax.contrib.madgrad(1.0),
}


@pytest.mark.parametrize("tx", DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_what_looks_at_differences_of_iterates_is_refused(tx):
    with pytest.raises(ValueError, match=r"differences between iterates.*ia\.iterate"):
        check(tx)


def test_weight_decay_is_no_difference_of_iterates_wherever_it_stands():
    for inner in (optax.adam(1.0), optax.rmsprop(1.0, momentum=0.9), MOMENTUM):
        check(optax.chain(optax.add_decayed_weights(0.1), inner))
    check(optax.adamw(1.0, weight_decay=0.1))


def test_a_projection_is_refused_and_a_weight_decay_of_one_is_none():
    with pytest.raises(ValueError, match=r"sets parameters.*projection"):
        check(optax.chain(MOMENTUM, optax.keep_params_nonnegative()))
    check(optax.adamw(1.0, weight_decay=1.0))


def test_a_memory_in_a_narrower_dtype_is_refused_and_in_the_parameters_own_is_not():
    with pytest.raises(ValueError, match=r"mu \(bfloat16\).*mu_dtype"):
        check(optax.adam(1.0, mu_dtype=jnp.bfloat16))
    in_float32 = accumulated(MOMENTUM, 2, jnp.float32)
    with pytest.raises(ValueError, match=r"acc_grads \(float32\)"):
        check(in_float32)
    check(in_float32, params=losses.START.astype("float32"))


def test_a_sign_on_some_parameters_is_named():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    labels = lambda tree: {name: name for name in tree}
    half = optax.partition({"a": optax.sgd(1.0), "b": optax.sign_sgd(1.0)}, labels)
    with pytest.warns(UserWarning, match=r"derivative zero in the gradient for params\['b'\]"):
        check(half, params=params)
    frozen = optax.partition({"a": optax.sgd(1.0), "b": optax.add_decayed_weights(-0.1)}, labels)
    check(frozen, params=params)
    check(optax.partition({"a": optax.sgd(1.0), "b": optax.set_to_zero()}, labels), params=params)


ITERATED = {
    "lion": optax.lion(1.0),
    "sign": optax.sign_sgd(1.0),
    "adagrad": optax.adagrad(1.0),
    "nonnegative": optax.chain(MOMENTUM, optax.keep_params_nonnegative()),
    "sam": DIFFERENCES["sam"],
    "prodigy": DIFFERENCES["prodigy"],
}


@pytest.mark.parametrize("tx", ITERATED.values(), ids=ITERATED.keys())
def test_iterate_runs_what_has_no_modified_equation(tx):
    run = ia.iterate(ia.Optax(0.01, tx), losses.batch_loss, losses.START, 5, batches=losses.batches())
    np.testing.assert_allclose(run.params[-1], plain_loop(tx, 0.01, 5), rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_coordinate_without_a_gradient_spoils_no_field(order):
    """Adam's own rule has the derivative of sqrt at zero as a limit; so has its twin, at late steps too."""
    loss = lambda theta: jnp.sum(jnp.cosh(theta[:2])) + theta[0] * theta[1]
    rule = ia.Adam(0.1, 0.5, 0.6, 1e-3, eps_in_sqrt=False)
    twin = optax.adam(1.0, b1=0.5, b2=0.6, eps=1e-3)
    wanted = ia.vector_field(rule, loss, order=order)
    found = ia.optax_vector_field(twin, loss, 0.1, order=order)
    for n in (0, 1, 700):
        at = jnp.asarray(n)
        np.testing.assert_allclose(
            jax.jit(found)(at, losses.START)[:2], jax.jit(wanted)(at, losses.START)[:2], rtol=1e-9
        )
        np.testing.assert_allclose(jax.jit(found)(at, losses.START)[2], 0, atol=1e-100)


def test_a_second_moment_that_begins_at_zero_unused_gives_no_nan():
    """Adopt divides by the moment of the step before, and does not use the first quotient."""
    tx, n, size = optax.contrib.adopt(1.0, b1=0.5, b2=0.6, eps=0.1), 4, 1e-5

    def update(points):
        state = tx.init(losses.START)
        with jax.numpy_dtype_promotion("standard"):
            for point in points:
                u, state = tx.update(jax.grad(losses.full_loss)(point), state, point)
        return -u

    F = [update([losses.START] * (l + 1)) for l in range(n + 1)]
    v = [sum(F[k:n], jnp.zeros(3)) + F[n] / 2 for k in range(n + 1)]
    ahead, behind = (update([losses.START + sign * size * v_k for v_k in v]) for sign in (1, -1))
    expected = -(F[n] + 0.1 * (ahead - behind) / (2 * size))
    field = ia.optax_vector_field(tx, losses.full_loss, 0.1)
    np.testing.assert_allclose(field(n, losses.START), expected, rtol=1e-7)


def test_a_transformation_is_tried_once_for_each_structure_of_parameters():
    calls = []

    def update(g, state, _=None):
        calls.append(1)
        return -g, state

    tx = optax.GradientTransformation(lambda params: (), update)
    behaviour(tx, losses.START)
    tried = len(calls)
    for _ in range(3):
        behaviour(tx, losses.START)
    assert len(calls) == tried > 0
    behaviour(tx, losses.START[:2])
    assert len(calls) > tried


def test_traced_hyperparameters_are_let_through_but_for_a_window():
    def at(decay, window=None):
        tx = optax.sgd(1.0, momentum=decay)
        return ia.optax_vector_field(tx, losses.full_loss, 0.1, window=window)(5, losses.START)

    np.testing.assert_allclose(jax.vmap(at)(jnp.asarray([0.2, 0.4]))[1], at(0.4), rtol=1e-12)
    with pytest.raises(ValueError, match=r"traced values.*leave out the window"):
        jax.vmap(lambda decay: at(decay, 4))(jnp.asarray([0.2, 0.4]))


def test_a_learning_rate_that_is_no_factor_is_refused_by_name():
    with pytest.raises(ValueError, match="no factor"):
        parse_optax("optax:fromage")
    parse_optax("optax:sgd(momentum=0.5)")
