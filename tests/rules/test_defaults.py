"""A rule of optax's name is optax's optimizer: the same defaults, order of arguments and iterates."""

import copy
import inspect
import pickle
import re
import warnings
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import implicit_adam as ia
from implicit_adam.rules import RULES, AbstractRule
from tests import examples

# So narrow that the smooth sign is the sign wherever the gradient is not zero.
SHARP = {"eps": 1e-30}
# What optax runs, and what ours must be told for the same: nothing, or what optax has no default for.
OPTAX = {
    "adam": (optax.adam, {}),
    "adamw": (optax.adamw, {}),
    "nadam": (optax.nadam, {}),
    "rmsprop": (optax.rmsprop, {}),
    "gradient-descent": (optax.sgd, {}),
    "heavy-ball": (partial(optax.sgd, momentum=0.9), {}),
    "nesterov": (partial(optax.sgd, momentum=0.9, nesterov=True), {}),
    "adagrad": (optax.adagrad, {}),
    "ademamix": (optax.contrib.ademamix, {}),
    "lion": (optax.lion, SHARP),
    "signum": (optax.signum, SHARP),
}
# Arguments by position, none of them a default.
POSITIONAL = {
    "adam": (0.8, 0.95, 1e-3),
    "adamw": (0.8, 0.95, 1e-3),
    "nadam": (0.8, 0.95, 1e-3),
    "rmsprop": (0.8, 1e-3),
    "gradient-descent": (),
    "heavy-ball": (0.7,),
    "nesterov": (0.7,),
    "adagrad": (0.3, 1e-3),
    "ademamix": (0.8, 0.95, 0.99, 3.0, 1e-3),
    "lion": (0.8, 0.95),
    "signum": (0.8,),
}
# Ours by keyword, and the same said to optax.
BY_KEYWORD = {
    "adam-inside": (ia.Adam, {"eps": 1e-3, "eps_in_sqrt": True}, optax.adam, {"eps": 0.0, "eps_root": 1e-3}),
    "nadam-inside": (
        ia.NAdam,
        {"eps": 1e-3, "eps_in_sqrt": True},
        optax.nadam,
        {"eps": 0.0, "eps_root": 1e-3},
    ),
    "adamw-inside": (
        ia.AdamW,
        {"eps": 1e-3, "eps_in_sqrt": True},
        optax.adamw,
        {"eps": 0.0, "eps_root": 1e-3},
    ),
    "ademamix-inside": (
        ia.AdEMAMix,
        {"eps": 1e-3, "eps_in_sqrt": True},
        optax.contrib.ademamix,
        {"eps": 0.0, "eps_root": 1e-3},
    ),
    "adamw-decay": (ia.AdamW, {"weight_decay": 0.3}, optax.adamw, {"weight_decay": 0.3}),
    "lion-decay": (ia.Lion, {"weight_decay": 0.3, **SHARP}, optax.lion, {"weight_decay": 0.3}),
    "rmsprop-outside": (
        ia.RMSProp,
        {"eps": 1e-3, "eps_in_sqrt": False},
        optax.rmsprop,
        {"eps": 1e-3, "eps_in_sqrt": False},
    ),
    "rmsprop-corrected": (ia.RMSProp, {"bias_correction": True}, optax.rmsprop, {"bias_correction": True}),
}
H, STEPS = 0.03, 12
GRADIENT = jax.jit(jax.grad(examples.full_loss))


def iterates(tx):
    """The loop of a user of optax. Not compiled: a compiler may round once more or less in either of two."""
    theta, state, seen = examples.START, tx.init(examples.START), [examples.START]
    for _ in range(STEPS):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(GRADIENT(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
        seen.append(theta)
    return np.stack(seen)


def assert_same(rule, tx):
    expected = iterates(tx)
    np.testing.assert_array_equal(iterates(rule.transformation()), expected)
    run = ia.iterate(rule, examples.full_loss, examples.START, STEPS)
    np.testing.assert_allclose(run.params, expected, rtol=1e-13)


def test_every_rule_that_optax_has_is_here():
    """Under its name, in lower case; a rule that optax has not needs no entry."""
    assert OPTAX.keys() == POSITIONAL.keys()
    assert OPTAX.keys() <= RULES.keys()
    in_optax = {name for name in RULES if hasattr(optax, name.replace("-", ""))}
    assert in_optax <= OPTAX.keys()


@pytest.mark.parametrize("name", OPTAX)
def test_by_default_it_makes_the_iterates_of_optaxs_defaults(name):
    make, ours = OPTAX[name]
    assert_same(RULES[name](H, **ours), make(H))


@pytest.mark.parametrize("name", OPTAX)
def test_by_position_it_makes_the_iterates_of_optax_by_position(name):
    make, ours = OPTAX[name]
    make = make.func if isinstance(make, partial) and "momentum" in make.keywords else make
    nesterov = {"nesterov": True} if name == "nesterov" else {}
    assert_same(RULES[name](H, *POSITIONAL[name], **ours), make(H, *POSITIONAL[name], **nesterov))


@pytest.mark.parametrize("name", BY_KEYWORD)
def test_by_keyword_it_makes_the_iterates_of_optax(name):
    ours, given, make, said = BY_KEYWORD[name]
    assert_same(ours(H, **given), make(H, **said))


@pytest.mark.parametrize("name", OPTAX)
def test_what_may_stand_by_position_is_what_optax_takes_there(name):
    """One more would mean another thing to optax."""
    kinds = [p.kind for p in list(inspect.signature(RULES[name].__init__).parameters.values())[2:]]
    by_position = sum(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
    assert by_position == len(POSITIONAL[name])


def test_a_schedule_over_h_1_is_the_same_schedule_given_to_optax():
    """Its first factor is schedule(0), and it multiplies the whole update, decay of the weights and all."""
    schedule = optax.linear_schedule(0.125, 0.0, 16)
    assert_same(ia.Scheduled(ia.AdamW(1.0), schedule), optax.adamw(schedule))


class Own(AbstractRule):
    h: jax.Array = eqx.field(converter=jnp.asarray)

    def features(self, g):
        return (g,)

    def kernels(self, n):
        return ia.GradientDescent(self.h).kernels(n)

    def readout(self, s, theta, n):
        return s[0]

    def transformation(self):
        return optax.sgd(self.h)


# A hyperparameter in the words of another library, and what it is called here.
OTHER_NAMES = [
    (ia.Adam, "learning_rate", "h"),
    (ia.GradientDescent, "lr", "h"),
    (ia.Adam, "b1", "beta"),
    (ia.Lion, "b1", "beta1"),
    (ia.NAdam, "b2", "rho"),
    (ia.Lion, "b2", "beta2"),
    (ia.AdamW, "beta1", "beta"),
    (ia.AdamW, "beta_2", "rho"),
    (ia.AdEMAMix, "b3", "beta_slow"),
    (ia.RMSProp, "decay", "rho"),
    (ia.RMSProp, "alpha", "rho"),
    (ia.HeavyBall, "momentum", "beta"),
    (ia.Adam, "epsilon", "eps"),
    (ia.Adam, "eps_root", "eps together with eps_in_sqrt=True"),
    (ia.Adagrad, "initial_accumulator_value", "initial_accumulator"),
    (Own, "learning_rate", "h"),
]


@pytest.mark.parametrize(("rule", "theirs", "ours"), OTHER_NAMES)
def test_a_name_from_another_library_is_refused_and_told_ours(rule, theirs, ours):
    with pytest.raises(
        ValueError, match=f"what is called {theirs} elsewhere is {ours} here; it is called as"
    ):
        rule(**{theirs: 0.1} if ours == "h" else {"h": 0.1, theirs: 0.1})


REFUSED = {
    "another algorithm": (
        ia.RMSProp,
        (0.1,),
        {"momentum": 0.9},
        "or for RMSProp ia.Optax(h, optax.rmsprop(1.0, momentum=..))",
    ),
    "decay of weights": (ia.Adam, (0.1,), {"weight_decay": 0.1}, "for weight_decay take ia.AdamW"),
    "a slip": (
        ia.Adam,
        (0.1,),
        {"epss": 1e-7},
        "'epss'; it is called as Adam(h, beta=0.9, rho=0.999, eps=1e-08, *, ",
    ),
    "switches by position": (
        ia.RMSProp,
        (0.1, 0.6, 0.1, False, True),
        {},
        "*, eps_in_sqrt=True, bias_correction",
    ),
    "eps_root by position": (ia.AdamW, (0.1, 0.9, 0.999, 1e-8, 0.0), {}, "too many positional"),
    "a placement in words": (
        ia.Adam,
        (0.1,),
        {"eps_in_sqrt": "outside"},
        "must be True or False, got 'outside'",
    ),
    "an eps for a switch": (ia.Adam, (0.1,), {"eps_in_sqrt": 1e-8}, "must be True or False, got 1e-08"),
    "a switch for a number": (ia.Adam, (0.1, 0.9, True), {}, "must be a real number, got True"),
    "a complex number": (ia.Adam, (0.1 + 1j,), {}, "must be a real number"),
    "None": (ia.Adam, (0.1,), {"eps": None}, "must be a real number, got None"),
    "text": (ia.Adam, ("0.1",), {}, "must be a real number, got '0.1'"),
}


@pytest.mark.parametrize(("rule", "args", "kwargs", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_call_that_the_rule_does_not_take_is_refused_with_the_call_it_takes(rule, args, kwargs, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        rule(*args, **kwargs)


def test_in_float32_the_iterates_differ_by_the_rounding_of_one_minus_rho_alone():
    """Ours is taken from the float32 decay, optax's from the Python float."""
    start, steps = examples.START.astype(jnp.float32), 30
    A, c = jax.tree.map(lambda x: x[0].astype(jnp.float32), examples.batches())
    loss = lambda theta: examples.batch_loss(theta, (A, c))
    for rho in (0.99, 0.9999):
        run = ia.iterate(ia.Adam(0.003, rho=rho), loss, start, steps, save_every=steps)
        tx = optax.adam(0.003, b2=rho)
        theta, state = start, tx.init(start)
        for _ in range(steps):
            with jax.numpy_dtype_promotion("standard"):
                updates, state = tx.update(jax.grad(loss)(theta), state, theta)
            theta = optax.apply_updates(theta, updates)
        moved = float(jnp.max(jnp.abs(theta - start)))
        rounding = float(jnp.finfo(jnp.float32).eps)
        assert float(jnp.max(jnp.abs(run.params[-1] - theta))) < rounding * moved * (10 + 1 / (1 - rho))


@pytest.mark.parametrize(("h", "peak", "warns"), [(1e-3, 1e-3, True), (1e-3, 1.0, False), (1.0, 1e-3, False)])
def test_a_schedule_of_learning_rates_over_a_small_h_is_warned_of(h, peak, warns):
    """Its steps would be the square of what was meant."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, 100, 1000)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        rule = ia.Scheduled(ia.Adam(h), schedule)
    assert ["a factor of h" in str(warning.message) for warning in seen] == [True] * warns
    with jax.numpy_dtype_promotion("standard"):
        step = ia.iterate(rule, examples.full_loss, examples.START, 101).params[-2:]
    # At the peak Adam moves by about its learning rate.
    assert float(jnp.max(jnp.abs(step[1] - step[0]))) < 2 * h * peak


@pytest.mark.parametrize("name", OPTAX)
def test_a_rule_survives_being_copied_and_pickled(name):
    rule = RULES[name](H)
    for other in (copy.copy(rule), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), replace(rule, h=H)):
        assert eqx.tree_equal(rule, other)
    assert float(replace(rule, h=2 * H).h) == 2 * H
