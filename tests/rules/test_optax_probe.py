"""What a transformation is, is found by running it: counters, periods, memory, points, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import implicit_adam as ia
from implicit_adam.cli.optax_names import parse_optax
from implicit_adam.rules.from_optax.checks import check_equation
from implicit_adam.rules.from_optax.probe import behaviour
from tests import examples, oracles

MOMENTUM = optax.sgd(1.0, momentum=0.4)


def accumulated(tx, k, dtype=float):
    return optax.MultiSteps(tx, k, accumulator_dtype=dtype).gradient_transformation()


def check(tx, window=None, params=examples.START):
    check_equation(ia.Optax(0.1, tx, window), params)


def plain_loop(tx, h, steps):
    """Optax as its own documentation runs it."""
    params, state = examples.START, tx.init(examples.START)
    with jax.numpy_dtype_promotion("standard"):
        for n in range(steps):
            batch = oracles.pick(examples.batches(), n % examples.M)
            updates, state = tx.update(jax.grad(examples.batch_loss)(params, batch), state, params)
            params = params + h * updates
    return params


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
    check(in_float32, params=examples.START.astype("float32"))


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
    run = ia.iterate(ia.Optax(0.01, tx), examples.batch_loss, examples.START, 5, batches=examples.batches())
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
            jax.jit(found)(at, examples.START)[:2], jax.jit(wanted)(at, examples.START)[:2], rtol=1e-9
        )
        np.testing.assert_allclose(jax.jit(found)(at, examples.START)[2], 0, atol=1e-100)


def test_a_second_moment_that_begins_at_zero_unused_gives_no_nan():
    """Adopt divides by the moment of the step before, and does not use the first quotient."""
    tx, n, size = optax.contrib.adopt(1.0, b1=0.5, b2=0.6, eps=0.1), 4, 1e-5

    def update(points):
        state = tx.init(examples.START)
        with jax.numpy_dtype_promotion("standard"):
            for point in points:
                u, state = tx.update(jax.grad(examples.full_loss)(point), state, point)
        return -u

    F = [update([examples.START] * (l + 1)) for l in range(n + 1)]
    v = [sum(F[k:n], jnp.zeros(3)) + F[n] / 2 for k in range(n + 1)]
    ahead, behind = (update([examples.START + sign * size * v_k for v_k in v]) for sign in (1, -1))
    expected = -(F[n] + 0.1 * (ahead - behind) / (2 * size))
    field = ia.optax_vector_field(tx, examples.full_loss, 0.1)
    np.testing.assert_allclose(field(n, examples.START), expected, rtol=1e-7)


def test_a_transformation_is_tried_once_for_each_structure_of_parameters():
    calls = []

    def update(g, state, _=None):
        calls.append(1)
        return -g, state

    tx = optax.GradientTransformation(lambda params: (), update)
    behaviour(tx, examples.START)
    tried = len(calls)
    for _ in range(3):
        behaviour(tx, examples.START)
    # Its program is looked at each time, since what it reads may have changed.
    assert len(calls) == tried + 3
    behaviour(tx, examples.START[:2])
    assert len(calls) >= 2 * tried


def test_traced_hyperparameters_are_let_through_but_for_a_window():
    def at(decay, window=None):
        tx = optax.sgd(1.0, momentum=decay)
        return ia.optax_vector_field(tx, examples.full_loss, 0.1, window=window)(5, examples.START)

    np.testing.assert_allclose(jax.vmap(at)(jnp.asarray([0.2, 0.4]))[1], at(0.4), rtol=1e-12)
    with pytest.raises(ValueError, match=r"traced values.*leave out the window"):
        jax.vmap(lambda decay: at(decay, 4))(jnp.asarray([0.2, 0.4]))


def test_a_learning_rate_that_is_no_factor_is_refused_by_name():
    with pytest.raises(ValueError, match="no factor"):
        parse_optax("optax:fromage")
    parse_optax("optax:sgd(momentum=0.5)")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_transformation_is_tried_in_the_dtype_in_which_it_computes(dtype):
    """In bfloat16 the response of Adam to the gradient is not above a hundred roundings."""
    curvatures = jnp.asarray([0.5, 1.0, 2.0], dtype)

    def bowl(theta):
        return jnp.sum(curvatures * theta**2) / 2

    start = jnp.asarray([1.0, -0.5, 0.25], dtype)
    fields = [
        ia.vector_field(optimizer, bowl)(5, start).astype(float)
        for optimizer in (optax.adam(0.01, eps=0.1), ia.Adam(0.01, eps=0.1))
    ]
    # An optax transformation's own step size is in its updates; the field of a rule is per unit of time.
    np.testing.assert_allclose(fields[0], 0.01 * fields[1], rtol=2 * float(jnp.finfo(dtype).eps))
    with pytest.raises(ValueError, match="narrower dtype than it computes in"):
        ia.vector_field(optax.adam(0.01, mu_dtype=dtype), bowl)(5, start)
