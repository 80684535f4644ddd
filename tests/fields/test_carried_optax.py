"""Carried memory of optax transformations: against the rules, the optimizer itself, and what is refused."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.rules.from_optax.recursion import _Seen, _wrong, recursions
from tests import examples
from tests.fields.test_carried import NET, error, error_of_field, net_loss


def table_schedule(n):
    """Known at integers only, with a jump."""
    return jnp.asarray([1.0, 0.9, 0.8, 0.4, 0.4, 0.3, 0.2, 0.2])[jnp.minimum(n, 7)]


def rms_step(h):
    return ia.RMSProp(h, 0.6, 0.1, eps_in_sqrt=False)


# Of one memory that is no linear feature, one without, a present gradient, weight decay, and a schedule.
TWINS = {
    "adamw": (
        lambda h: ia.AdamW(h, 0.5, 0.6, 0.1, eps_in_sqrt=False, weight_decay=0.3),
        optax.adamw(1.0, 0.5, 0.6, eps=0.1, weight_decay=0.3),
    ),
    "nadam": (lambda h: ia.NAdam(h, 0.5, 0.6, 0.1, eps_in_sqrt=False), optax.nadam(1.0, 0.5, 0.6, eps=0.1)),
    "rmsprop": (rms_step, optax.rmsprop(1.0, decay=0.6, eps=0.1, eps_in_sqrt=False)),
    "nesterov": (lambda h: ia.Nesterov(h, 0.5), optax.sgd(1.0, momentum=0.5, nesterov=True)),
    "adagrad": (
        lambda h: ia.Adagrad(h, initial_accumulator=0.2, eps=0.1),
        optax.adagrad(1.0, initial_accumulator_value=0.2, eps=0.1),
    ),
    "scheduled": (
        lambda h: ia.Scheduled(ia.HeavyBall(h, 0.5), table_schedule),
        optax.sgd(table_schedule, momentum=0.5),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_field_is_that_of_the_rule(name):
    rule, tx = TWINS[name]
    own, other = (
        ia.carried_field(x, examples.full_quartic) for x in (rule(jnp.asarray(0.05)), ia.Optax(0.05, tx))
    )
    t = jnp.asarray(6.3 * 0.05)
    expected = eqx.filter_jit(own)(t, own.start(examples.START, 6))[0]
    found = eqx.filter_jit(other)(t, other.start(examples.START, 6))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_leaps_are_those_of_the_rule_with_their_derivatives_and_in_lanes():
    rule, tx = TWINS["rmsprop"]
    direction = (jnp.ones(()), jnp.cos(jnp.arange(float(examples.START.size))))

    def end(make, h, theta):
        return ia.carried_flow(make(h), examples.full_quartic, theta, 12, start=3, save_every=12).params[-1]

    @partial(jax.jit, static_argnums=0)
    def forward(make, h):
        return jax.vmap(lambda h: jax.jvp(partial(end, make), (h, examples.START), direction))(h)

    def transformation(h):
        return ia.Optax(h, tx)

    h = jnp.asarray([0.05, 0.025])
    found, expected = forward(transformation, h), forward(rule, h)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    w = jnp.sin(found[0][0])
    backward = jax.jit(lambda h: jax.vjp(partial(end, transformation), h, examples.START)[1](w))(h[0])
    paired = sum(jnp.vdot(x, v) for x, v in zip(backward, direction, strict=True))
    np.testing.assert_allclose(paired, w @ found[1][0], rtol=1e-9)


def test_it_stays_in_float32():
    single = jnp.asarray(examples.START, jnp.float32)
    loss = lambda theta: jnp.sum((theta**2 - 1) ** 2) / 4
    rule = ia.Optax(0.05, TWINS["rmsprop"][1])
    run = ia.carried_flow(rule, loss, single, 12, start=3, memories=True)
    assert {x.dtype for x in jax.tree.leaves((run.params, run.memories)) if x.dtype != jnp.int32} == {
        single.dtype
    }
    np.testing.assert_allclose(run.params, ia.iterate(rule, loss, single, 12).params, rtol=1e-3, atol=1e-4)


FED = optax.rmsprop(1.0, decay=0.6, eps=0.1, momentum=0.5)
# A variance about a mean, momentum of preconditioned gradients, the gradient of the step before.
SECOND_LEVEL = {
    "adabelief": optax.adabelief(1.0, 0.5, 0.6, eps=0.5, eps_root=0.0),
    "rmsprop with momentum": FED,
    "adan": optax.adan(1.0, 0.5, 0.6, 0.7, eps=0.1),
}


def slope(tx, order):
    """From a fixed time on, when the start is forgotten."""
    coarse, fine = (
        error_of_field(
            ia.Optax(0.5 / steps, tx), examples.full_quartic, examples.START, steps, order, start=steps // 8
        )
        for steps in (208, 416)
    )
    return np.log2(coarse / fine)


@pytest.mark.parametrize("tx", SECOND_LEVEL.values(), ids=SECOND_LEVEL.keys())
def test_memories_of_memories_are_carried_to_order_two(tx):
    assert slope(tx, 1) == pytest.approx(2, abs=0.15)


def test_without_corrections_the_order_is_one():
    assert slope(FED, 0) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["rmsprop with momentum", "adan"])
def test_leaps_of_one_step_are_the_optimizers_steps(name):
    rule = ia.Optax(0.05, SECOND_LEVEL[name])
    leaps = ia.carried_flow(
        rule,
        examples.full_quartic,
        examples.START,
        20,
        start=3,
        stepsize_controller=diffrax.ConstantStepSize(),
    )
    twin = ia.iterate(rule, examples.full_quartic, examples.START, 20)
    # At the first leap, the gradient of the step before is known to O(h^2) only.
    np.testing.assert_allclose(leaps.params, twin.params, rtol=1e-3 if name == "adan" else 1e-12)


def test_memories_as_long_as_the_run_are_carried_to_order_two():
    def along(steps):
        h = 1 / steps
        tx = optax.chain(optax.scale_by_rms(1 - h / 0.4), optax.trace(1 - h / 0.02), optax.scale(-h / 0.02))
        return error_of_field(ia.Optax(h, tx), net_loss, NET, steps, start=steps // 8)

    assert np.log2(along(800) / along(1600)) == pytest.approx(2, abs=0.2)


def test_mini_batches_each_update_the_same_state_and_their_mean_goes_on():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1.0, decay=0.6, eps=0.1, momentum=0.5))
    A, c = examples.batches()

    def alone(b):
        state = tx.init(examples.START)
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(
                jax.grad(examples.batch_loss)(examples.START, (A[b], c[b])), state, examples.START
            )

    every = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), 0), *map(alone, range(examples.M)))
    field = ia.carried_field(ia.Optax(0.02, tx), examples.batch_loss, batches=(A, c))
    params, memories = field.start(examples.START, 1)
    np.testing.assert_allclose(params, examples.START + 0.02 * every[0], rtol=1e-12)
    for found, mean in zip(jax.tree.leaves(memories), jax.tree.leaves(every[1]), strict=True):
        np.testing.assert_allclose(found, mean, rtol=1e-12)
    linear = ia.Optax(0.02, optax.sgd(1.0, momentum=0.5))
    own, other = (
        ia.carried_flow(rule, examples.batch_loss, examples.START, 40, batches=(A, c), save_every=20).params
        for rule in (ia.HeavyBall(0.02, 0.5), linear)
    )
    np.testing.assert_allclose(other, own, rtol=1e-9)


def test_over_mini_batches_it_is_the_mean_run_where_gradients_and_their_squares_go_together():
    """RMSProp divides a gradient by a mean of few squares, its own among them, which the rule leaves out."""
    steps, runs, batches = 300, 512, examples.batches(m=8)
    twin = optax.rmsprop(1.0, decay=0.6, eps=0.1, initial_scale=0.0)
    orders = np.stack([examples.random_schedule(steps, seed, m=8) for seed in range(runs)])
    args = (examples.batch_loss, examples.START, steps)

    def run(order):
        return ia.iterate(
            ia.RMSProp(2e-3, 0.6, 0.1), *args, batches=batches, schedule=order, save_every=50
        ).params

    mean = jnp.mean(jax.vmap(run)(jnp.asarray(orders)), 0)
    carried, by_rule = (
        ia.carried_flow(rule, *args, batches=batches, save_every=50).params
        for rule in (ia.Optax(2e-3, twin), ia.RMSProp(2e-3, 0.6, 0.1))
    )
    assert error(carried, mean) < error(by_rule, mean) / 2


def test_memories_are_shown_as_the_state_of_the_transformation():
    params, batches = examples.as_tree(examples.START), examples.batches()
    rule = ia.Optax(0.02, optax.rmsprop(1.0, decay=0.6, eps=0.1, momentum=0.5))
    field = ia.carried_field(rule, examples.tree_loss, batches=batches)
    now, (nu, _, trace) = field.start(params, 3)
    assert jax.tree.structure(now) == jax.tree.structure(nu.nu) == jax.tree.structure(trace.trace)
    rates = field(0.06, (now, (nu, optax.EmptyState(), trace)))[1]
    assert jax.tree.structure(rates) == jax.tree.structure((nu, optax.EmptyState(), trace))
    flow = ia.carried_flow(rule, examples.tree_loss, params, 20, batches=batches, save_every=5, memories=True)
    np.testing.assert_allclose(flow.memories[0].nu["a"][0][2], field.start(params, 10)[1][0].nu["a"][0])
    adam = ia.carried_field(ia.Optax(0.02, optax.adam(1.0)), examples.full_loss).start(examples.START, 2)[1]
    assert adam[0].count is None


def simple(recursion, init=jnp.zeros_like):
    """y <- recursion(y, g, n), by which the gradient is divided."""

    def update(g, state, _=None):
        y = recursion(state[1], g, state[0])
        return -g / (1 + y), (state[0] + 1, y)

    return optax.GradientTransformation(lambda params: (jnp.zeros((), jnp.int32), init(params)), update)


def two_that_feed_each_other():
    def update(g, state, _=None):
        a, b = 0.5 * state[0] + 0.1 * state[1] + g**2, 0.5 * state[1] + 0.1 * state[0] + g**2
        return -g / (1 + a + b), (a, b)

    return optax.GradientTransformation(lambda params: (params * 0, params * 0), update)


MIXING = jnp.asarray([[0.5, 0.1, 0.0], [0.0, 0.5, 0.1], [0.1, 0.0, 0.5]])
REFUSED = {
    "maximum": (
        simple(lambda y, g, n: jnp.maximum(0.5 * y, g**2)),
        "does not fade by one and the same factor",
    ),
    "switching decay": (
        simple(lambda y, g, n: jnp.where(g**2 > 1, 0.5, 0.6) * y + g**2),
        "does not fade by one and the same factor",
    ),
    "slower and slower": (
        simple(lambda y, g, n: y + (g**2 - y) / (n + 1.0) ** 0.8),
        "does not fade by one and the same factor",
    ),
    "matrix": (simple(lambda y, g, n: MIXING @ y + g**2), "does not fade by one and the same factor"),
    "ring": (two_that_feed_each_other(), "feed each other"),
    "accumulation": (optax.chain(optax.sgd(1.0), optax.apply_every(3)), "repeats itself every 3 steps"),
    "rarely": (
        simple(lambda y, g, n: 0.5 * y + jnp.where(n % 40 < 20, 1.0, 0.0) * g**2),
        "something else at some steps",
    ),
    "random key": (optax.noisy_sgd(1.0, key=3), "random key"),
    "projection": (optax.chain(optax.sgd(1.0), optax.keep_params_nonnegative()), "projection"),
    "integer": (simple(lambda y, g, n: 0.5 * y + jnp.asarray([1.0, 0.5])[n % 1] * g**2), "no integer"),
}


@pytest.mark.parametrize(("tx", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_linear_recursion_is_refused_in_words(tx, words):
    with pytest.raises(ValueError, match=words):
        recursions(tx, examples.START)


def test_refusals_reach_the_user_also_for_traced_values_and_delays_with_mini_batches():
    with pytest.raises(ValueError, match="does not fade"):
        ia.carried_flow(ia.Optax(0.1, REFUSED["maximum"][0]), examples.full_loss, examples.START, 20)
    with pytest.raises(ValueError, match=r"traced values.*ia\.Adam"):
        jax.jit(
            lambda b: ia.carried_field(optax.sgd(0.1, momentum=b), examples.full_loss).start(examples.START)
        )(0.5)
    with pytest.raises(ValueError, match="another mini-batch"):
        ia.carried_flow(
            ia.Optax(0.1, SECOND_LEVEL["adan"]),
            examples.batch_loss,
            examples.START,
            20,
            batches=examples.batches(),
        )


LINEAR = _Seen(
    decay=np.full((3, 1), 0.9),
    spread=np.zeros((3, 1)),
    bent=np.zeros((3, 1)),
    least=np.zeros((3, 1)),
    off=np.zeros(3),
    finite=np.full(3, fill_value=True),
)


@pytest.mark.parametrize(
    ("seen", "jumps", "words"),
    [
        ({"spread": [[0.0], [1e-3], [0.0]]}, 0, "does not fade"),
        ({"bent": [[0.0], [0.0], [1e-3]]}, 0, "does not fade"),
        ({"decay": [[0.9], [0.9], [0.902]]}, 0, "does not fade"),
        ({"decay": [[1.1], [1.1], [1.1]]}, 0, "does not fade"),
        ({"off": [1e-3, 0.0, 0.0]}, 0, "something else at some steps"),
        ({}, 30, "something else at some steps"),
        ({"finite": [True, False, True]}, 0, "not finite"),
    ],
)
def test_each_sign_of_another_recursion_is_enough(seen, jumps, words):
    """A linear one shows none of them."""
    smooth = np.zeros(40)
    assert _wrong(LINEAR, smooth, ["mu"], 1e-9) is None
    changed = LINEAR._replace(**{name: np.asarray(x) for name, x in seen.items()})
    assert words in (_wrong(changed, np.where(np.arange(40) < jumps, 1.0, smooth), ["mu"], 1e-9) or "")
