"""The map without memory, the split of the field, and the bias added or taken away."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import examples
from tests.registry import CASES, NO_LIMIT

BATCHES = examples.batches()


def test_gradient_descent_has_no_memory_to_lose():
    arguments = (ia.GradientDescent(0.1), examples.batch_loss, examples.START, 20)
    run, same = ia.iterate(*arguments, batches=BATCHES), ia.memoryless(*arguments, batches=BATCHES)
    np.testing.assert_allclose(same.params, run.params, rtol=1e-13)


def test_an_optax_transformation_has_a_memoryless_map_too():
    rule, twin = (
        ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True),
        ia.Optax(0.01, ia.Adam(1.0, 0.5, 0.6, 0.1, eps_in_sqrt=True).transformation()),
    )
    runs = [
        ia.memoryless(r, examples.batch_loss, examples.START, 8, batches=BATCHES).params for r in (rule, twin)
    ]
    np.testing.assert_allclose(*runs, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_LIMIT])
def test_the_parts_sum_to_the_field(name):
    kwargs = {"batches": BATCHES, "schedule": examples.random_schedule(9)}
    rule = CASES[name](0.1)

    @jax.jit
    def parts_and_field(params):
        parts = ia.decompose(rule, examples.tree_loss, params, 5, **kwargs)
        return parts, ia.vector_field(rule, examples.tree_loss, **kwargs)(5, params)

    parts, field = parts_and_field(examples.as_tree(examples.START))
    total = jax.tree.map(lambda *x: sum(x), *parts)
    for x, y in zip(jax.tree.leaves(total), jax.tree.leaves(field), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


def test_each_part_is_what_its_name_says():
    """One part after the other vanishes: without mini-batches, late, without memory."""
    zero = lambda part: float(jnp.max(jnp.abs(part))) < 1e-12
    rule = ia.Adam(0.1, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    young = ia.decompose(rule, examples.full_loss, examples.START, 2)
    assert zero(young.minibatch)
    assert not zero(young.transient)
    late = ia.decompose(rule, examples.full_loss, examples.START, 300)
    assert zero(late.transient)
    assert not zero(late.memory)
    descent = ia.decompose(ia.GradientDescent(0.1), examples.full_loss, examples.START, 0)
    assert zero(descent.memory)
    half_step = jax.grad(lambda t: -0.1 / 4 * jnp.sum(jax.grad(examples.full_loss)(t) ** 2))(examples.START)
    np.testing.assert_allclose(descent.discreteness, half_step, rtol=1e-12)
    split = ia.decompose(rule, examples.batch_loss, examples.START, 2, batches=BATCHES)
    assert not zero(split.minibatch)


def test_rules_without_a_limit_are_not_split():
    for name in NO_LIMIT:
        with pytest.raises(ValueError, match="no limit"):
            ia.decompose(CASES[name](0.1), examples.full_loss, examples.START, 0)


def train(tx, steps, batches=BATCHES):
    """An ordinary training loop."""

    def step(carry, n):
        params, state = carry
        batch = jax.tree.map(lambda x: x[n % examples.M], batches)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(examples.batch_loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = (examples.START, tx.init(examples.START))
    return jnp.concatenate([examples.START[None], jax.lax.scan(step, start, jnp.arange(steps))[1]])


def test_with_its_bias_doubled_it_strays_from_the_plain_flow_twice_as_far():
    rule, steps = CASES["adam"](0.1 / 480), 480
    plain = ia.flow(rule, examples.batch_loss, examples.START, steps, order=0, batches=BATCHES).params[-1]
    runs = [train(ia.with_bias(rule, examples.batch_loss, s, batches=BATCHES), steps)[-1] for s in (0.0, 1.0)]
    np.testing.assert_allclose(runs[1] - plain, 2 * (runs[0] - plain), rtol=0.02)


def test_with_strength_zero_it_is_the_optimizer_itself():
    rule = ia.Adam(0.05, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    run = train(ia.with_bias(rule, examples.batch_loss, 0.0, batches=BATCHES), 10)
    own = ia.iterate(rule, examples.batch_loss, examples.START, 10, batches=BATCHES).params
    np.testing.assert_allclose(run, own, rtol=1e-14)


@pytest.mark.parametrize("strength", [np.nan, np.inf, jnp.ones(2)])
def test_a_strength_is_one_finite_number(strength):
    with pytest.raises(ValueError, match="strength must be"):
        ia.with_bias(ia.Adam(0.1), examples.full_loss, strength)


def test_it_does_not_run_past_its_schedule():
    kwargs = {"batches": BATCHES, "schedule": jnp.asarray([0, 1])}
    tx = ia.with_bias(ia.Adam(0.1, 0.5, 0.6, 0.1, eps_in_sqrt=True), examples.batch_loss, -1.0, **kwargs)
    state = tx.init(examples.START)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):
            _, state = tx.update(examples.START, state, examples.START)
        with pytest.raises(ValueError, match=r"0 \.\. 1"):
            tx.update(examples.START, state, examples.START)


def test_with_bias_needs_the_parameters():
    tx = ia.with_bias(ia.Adam(0.1), examples.full_loss, -1.0)
    with pytest.raises(ValueError, match=r"update\(gradient, state, params\)"):
        tx.update(examples.START, tx.init(examples.START))
