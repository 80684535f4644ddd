"""Advice is right where the change is made: the optimizer itself is run with it."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.diagnosis import levers
from implicit_adam.diagnosis.advice import Effect, Turn
from implicit_adam.diagnosis.forecasts import random_orders
from implicit_adam.fields.carried.carried_field import carried_inputs
from tests.fields.test_carried import net_loss

STEPS, BEFORE, RUNS = 60, 30, 32
NUMBERS = np.random.default_rng(11)
POINT = jnp.asarray(NUMBERS.normal(size=9))
X, W, V = (jnp.asarray(NUMBERS.normal(size=shape)) for shape in ((16, 4, 2), (2, 3), 3))
BATCHES = (X, jnp.cos(2 * X[..., 0]) + X[..., 1])


def batch_loss(params, batch):
    """A tanh regression, in sixteen mini-batches of four."""
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


class Case(NamedTuple):
    rule: Any
    loss: Any
    params: Any
    batches: Any = None

    def mean_loss(self, params):
        return self.loss(params) if self.batches is None else jnp.mean(
            jax.vmap(self.loss, (None, 0))(params, self.batches)
        )  # fmt: skip


REGRESSION = ({"w": W, "v": V}, BATCHES)
DIGITS = ia.problems.digits(batches=6, samples=120, hidden=4, seed=3)
CASES = {
    "adam": Case(ia.Adam(4e-3), net_loss, POINT),
    "rmsprop": Case(ia.RMSProp(1e-2, 0.95), ia.problems.bilinear().loss, jnp.asarray([1.8, -2.1])),
    "heavy ball": Case(ia.HeavyBall(3e-3, 0.8), batch_loss, *REGRESSION),
    "adamw": Case(ia.AdamW(2e-3, 0.9, 0.99, weight_decay=0.1), DIGITS.loss, DIGITS.params, DIGITS.batches),
}


def with_change(case, lever, factor):
    """The case with the change made, as a user would make it."""
    if lever == "batch_size":
        regroup = lambda x: x.reshape(int(len(x) / factor), int(x.shape[1] * factor), *x.shape[2:])
        return case._replace(batches=jax.tree.map(regroup, case.batches))
    old = getattr(case.rule, lever)
    new = factor * old if lever == "h" else 1 - (1 - old) / factor
    return case._replace(rule=eqx.tree_at(lambda rule: getattr(rule, lever), case.rule, new))


@eqx.filter_jit
def run(case, params, state, order):
    """The optimizer itself, over the mini-batches in this order, or without any."""
    tx = case.rule.transformation()

    def step(carry, b):
        params, state = carry
        batch = () if case.batches is None else (jax.tree.map(lambda x: x[b], case.batches),)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(case.loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), order)[0]


@eqx.filter_jit
def mean_loss_after(case, params, state, orders):
    return jnp.mean(jax.vmap(lambda order: case.mean_loss(run(case, params, state, order)[0]))(orders))


def orders(case, steps, runs, seed):
    m = 1 if case.batches is None else len(jax.tree.leaves(case.batches)[0])
    rng = np.random.default_rng(seed)
    epochs = [[rng.permutation(m) for _ in range(-(-steps // m))] for _ in range(1 if m == 1 else runs)]
    return jnp.asarray(np.reshape(epochs, (len(epochs), -1))[:, :steps])


@functools.cache
def moment_of(name):
    case = CASES[name]
    begin = (case.params, case.rule.transformation().init(case.params))
    return run(case, *begin, orders(case, BEFORE, 1, 5)[0])


@functools.cache
def advice(name):
    case, (params, state) = CASES[name], moment_of(name)
    return ia.advise(case.rule, case.loss, params, opt_state=state, batches=case.batches, steps=STEPS)


def reached(name, lever=None, factor=1.0):
    """Mean full-batch loss at the end, from the moment of the case on."""
    case, (params, state) = CASES[name], moment_of(name)
    changed = case if lever is None else with_change(case, lever, factor)
    return float(mean_loss_after(changed, params, state, orders(changed, STEPS, RUNS, 17)))


@functools.cache
def foreseen_and_found():
    rows = []
    for name in CASES:
        unchanged = reached(name)
        for lever, change in advice(name).changes.items():
            for factor, effect in ((2, change.doubled), (0.5, change.halved)):
                bar = float(advice(name).error_bar(effect).loss)
                rows.append((float(effect.loss), reached(name, lever, factor) / unchanged - 1, bar))
    return np.array(rows)


def test_of_changes_that_are_made_nine_in_ten_go_the_way_that_was_foreseen():
    foreseen, found, bar = foreseen_and_found().T
    right = np.sign(foreseen) == np.sign(found)
    assert len(right) >= 20
    assert right.sum() >= 0.9 * len(right), foreseen_and_found()
    # What is not called less than can be told goes that way.
    assert right[abs(foreseen) > bar].all()
    assert (abs(foreseen) > bar).sum() >= 0.7 * len(right)


def again(name, rule):
    case, (params, state) = CASES[name], moment_of(name)
    return ia.advise(rule, case.loss, params, opt_state=state, batches=case.batches, steps=STEPS)


def test_twice_is_what_an_optimizer_of_twice_the_value_comes_to():
    found = advice("adam")
    for lever, rule in (
        ("h", ia.Adam(8e-3)),
        ("beta", ia.Adam(4e-3, 0.95)),
        ("rho", ia.Adam(4e-3, rho=0.9995)),
    ):
        there = again("adam", rule)
        for of in Effect._fields:
            effect = getattr(there, of) / getattr(found, of) - 1
            np.testing.assert_allclose(getattr(found.changes[lever].doubled, of), effect, rtol=1e-6)


def test_slopes_are_what_a_small_part_of_an_octave_changes_in_proportion():
    """Of a memory that adds gradients up, too: its state stays and its decay is another."""
    u = 0.01
    part = 2**u
    for name, lever, rule in (
        ("adam", "h", ia.Adam(4e-3 * part)),
        ("adam", "rho", ia.Adam(4e-3, rho=1 - 0.001 / part)),
        ("heavy ball", "beta", ia.HeavyBall(3e-3, 1 - 0.2 / part)),
    ):
        effect = (again(name, rule).loss / advice(name).loss - 1) / u
        np.testing.assert_allclose(advice(name).changes[lever].slope.loss, effect, rtol=0.03)


def test_a_batch_of_other_size_has_its_part_of_the_variance_and_the_spread_its_part_of_the_loss():
    """Of an update linear in the gradients only the spread feels it: noise - 1 times what it adds."""
    change = advice("heavy ball").changes["batch_size"]
    doubled, halved = (16 - 2) / (2 * 15) - 1, (16 - 1 / 2) / (1 / 2 * 15) - 1
    np.testing.assert_allclose(change.halved.loss / change.doubled.loss, halved / doubled, rtol=1e-6)
    np.testing.assert_allclose(
        change.slope.loss / change.doubled.loss, -np.log(2) * 16 / 15 / doubled, rtol=1e-6
    )
    case, (params, state) = CASES["heavy ball"], moment_of("heavy ball")
    drawn = random_orders(16, 8, STEPS, 0)
    ends = jax.vmap(lambda order: run(case, params, state, order)[0])(drawn)
    of_mean = case.mean_loss(jax.tree.map(lambda x: jnp.mean(x, 0), ends))
    spread = (jnp.mean(jax.vmap(case.mean_loss)(ends)) - of_mean) * 8 / 7
    np.testing.assert_allclose(change.doubled.loss, doubled * spread / advice("heavy ball").loss, rtol=1e-6)
    # The loss that is foreseen is that of the mean run, here the one in full batch.
    whole = case._replace(loss=case.mean_loss, batches=None)
    end, _ = run(whole, params, state, jnp.zeros(STEPS, int))
    np.testing.assert_allclose(advice("heavy ball").loss, case.mean_loss(end), rtol=0, atol=spread / 3)


def test_the_error_is_that_of_the_unchanged_run():
    case, (params, state) = CASES["adam"], moment_of("adam")
    points = [run(case, params, state, jnp.zeros(STEPS * i // 4, int))[0] for i in (1, 2, 3, 4)]
    found = advice("adam")
    assert abs(found.loss / net_loss(points[-1]) - 1) <= found.error.loss < 1e-3
    assert found.sampling_error == (0, 0)
    bar = found.error_bar(Turn(jnp.asarray(0.5), jnp.asarray(-3.0), jnp.asarray(0.5)))
    np.testing.assert_allclose(bar.loss, 3 * found.error.loss, rtol=1e-12)
    np.testing.assert_allclose(bar.one_norm, 4 * found.error.one_norm, rtol=1e-12)
    assert advice("heavy ball").sampling_error.loss > 0


def test_levers_are_the_step_size_the_decays_and_the_batch_size():
    names = lambda rule, batches=None: levers.names(inputs_of(rule, batches))
    scheduled = ia.Scheduled(ia.Adam(1.0), lambda n: 1e-3)
    assert names(ia.GradientDescent(0.1)) == ["h"]
    assert names(scheduled) == ["h", "beta", "rho"]
    assert names(ia.Lion(0.1)) == ["h", "beta1", "beta2"]
    assert names(optax.adam(0.1)) == ["h"]
    assert names(ia.HeavyBall(0.1), jnp.ones((3, 2))) == ["h", "beta", "batch_size"]
    assert names(ia.HeavyBall(0.1), jnp.ones((1, 2))) == ["h", "beta"]
    turned = levers.turned(inputs_of(scheduled), jnp.asarray([1.0, 1.0, -1.0])).rule
    np.testing.assert_allclose([turned.h, turned.rule.beta, turned.rule.rho], [2, 0.95, 0.998], rtol=1e-12)


def inputs_of(rule, batches=None):
    loss = (lambda x: jnp.sum(x**2)) if batches is None else lambda x, b: jnp.sum((x - b) ** 2)
    return carried_inputs(rule, loss, jnp.ones(2), batches, None)


def test_a_memory_below_two_steps_has_no_half():
    inputs = inputs_of(ia.Adam(0.1, beta=0.3))
    assert not levers.has_half(inputs, "beta")
    assert levers.has_half(inputs, "rho")
    assert levers.turned(inputs, jnp.asarray([0.0, -1.0, 0.0])).rule.beta == 0


SPECTRUM = np.array([0.5, 1.0, 4.0])


def momentum_loss(h, steps):
    """optax.sgd(.01, momentum=.5) on a quadratic, its updates from the tenth step on multiplied by h/.01."""
    theta, m = np.ones(3), np.zeros(3)
    for n in range(10 + steps):
        m = 0.5 * m + SPECTRUM * theta
        theta = theta - (0.01 if n < 10 else h) * m
    return SPECTRUM @ theta**2 / 2


quadratic = lambda x: jnp.sum(jnp.asarray(SPECTRUM) * x**2) / 2
SGD = optax.sgd(0.01, momentum=0.5)


def on_the_quadratic(tx):
    return ia.advise(tx, quadratic, jnp.ones(3), steps=8)


def test_of_a_transformation_the_step_size_is_a_factor_of_its_updates():
    found = on_the_quadratic(SGD).changes
    assert list(found) == ["h"]
    assert found["h"].value == 1
    for effect, h in ((found["h"].doubled, 0.02), (found["h"].halved, 0.005)):
        expected = momentum_loss(h, 8) / momentum_loss(0.01, 8) - 1
        np.testing.assert_allclose(effect.loss, expected, rtol=2e-3)
        # The threshold of heavy ball is 2 (1 + beta) / h, and the largest rate is 4.
        np.testing.assert_allclose(effect.edge, 4 * h / (2 * 1.5), rtol=1e-6)


def test_past_the_edge_of_stability_nothing_is_to_be_believed():
    """Steps 45 and 90 times as long: at .6 and at 1.2 of the threshold, twice as much if they are doubled."""
    below, past = (on_the_quadratic(ia.Optax(h, SGD)) for h in (45.0, 90.0))
    np.testing.assert_allclose([below.edge, past.edge], [0.6, 1.2], rtol=1e-6)
    assert "Doubling h takes it past the edge (curvature 1.20 of the threshold)." in below.verdict
    assert np.all(np.isinf(below.error_bar(below.changes["h"].doubled)))
    assert np.all(np.isfinite(below.error_bar(below.changes["h"].halved)))
    assert "That run is past the edge of stability (curvature 1.20 of the threshold)" in past.verdict
    assert "neither that nor any effect of a change is to be believed" in past.verdict
    assert "Doubling h leaves it past the edge" in past.verdict
    assert "Halving h brings it back below the edge" in past.verdict
    assert "lower" not in past.verdict
    assert np.isinf(past.numbers()["h/halved/loss_bar"])


def test_what_comes_near_the_edge_and_what_has_none_is_said():
    found = advice("adam")
    near = found.changes["h"]._replace(doubled=found.changes["h"].doubled._replace(edge=np.asarray(0.95)))
    assert "%, near the edge of stability (curvature 0.95" in found._replace(changes={"h": near}).verdict
    assert "comes near the edge" in found._replace(edge=np.asarray(0.95)).verdict
    assert "is not known" in found._replace(edge=np.asarray(np.nan)).verdict
    assert "not known" not in found.verdict


def test_the_verdict_says_what_is_larger_than_its_error_bar():
    found = advice("heavy ball")
    assert found.verdict.startswith("Without a change the loss is predicted to be ")
    assert "Doubling the batch size would change it by less than can be told" in found.verdict
    assert "Doubling h would lower it by 12 %" in found.verdict
    assert "Halving the memory of beta would raise it by 20 %" in found.verdict
    assert "would lower" not in found._replace(error=Effect(np.nan, np.nan)).verdict
    none = found.changes["h"]._replace(halved=Turn(np.nan, np.nan, np.nan))
    assert "The effect of halving h cannot be predicted." in found._replace(changes={"h": none}).verdict
    assert repr(found).startswith("Without a change")
    numbers = found.numbers()
    assert {type(x) for x in numbers.values()} == {float}
    assert numbers["beta/halved/loss"] == float(found.changes["beta"].halved.loss)


def test_what_cannot_be_advised_is_refused():
    params, state = moment_of("adam")
    with pytest.raises(ValueError, match="outside of"):
        jax.jit(lambda params: ia.advise(CASES["adam"].rule, net_loss, params).loss)(params)
    with pytest.raises(ValueError, match="steps must be a Python integer >= 4"):
        ia.advise(CASES["adam"].rule, net_loss, params, opt_state=state, steps=3)
    with pytest.raises(ValueError, match="runs must be"):
        ia.advise(CASES["adam"].rule, net_loss, params, runs=1)
