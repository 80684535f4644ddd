"""A rule of optax's name is optax's optimizer: the same defaults, order of arguments and iterates."""

import inspect
import re
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
from tests import losses

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
GRADIENT = jax.jit(jax.grad(losses.full_loss))


def iterates(tx):
    """The loop of a user of optax. Not compiled: a compiler may round once more or less in either of two."""
    theta, state, seen = losses.START, tx.init(losses.START), [losses.START]
    for _ in range(STEPS):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(GRADIENT(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
        seen.append(theta)
    return np.stack(seen)


def assert_same(rule, tx):
    expected = iterates(tx)
    np.testing.assert_array_equal(iterates(rule.transformation()), expected)
    run = ia.iterate(rule, losses.full_loss, losses.START, STEPS)
    np.testing.assert_allclose(run.params, expected, rtol=1e-13)


def test_every_rule_has_its_optimizer_here():
    assert OPTAX.keys() == POSITIONAL.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_by_default_it_makes_the_iterates_of_optaxs_defaults(name):
    make, ours = OPTAX[name]
    assert_same(RULES[name](H, **ours), make(H))


@pytest.mark.parametrize("name", RULES)
def test_by_position_it_makes_the_iterates_of_optax_by_position(name):
    make, ours = OPTAX[name]
    make = make.func if isinstance(make, partial) and "momentum" in make.keywords else make
    nesterov = {"nesterov": True} if name == "nesterov" else {}
    assert_same(RULES[name](H, *POSITIONAL[name], **ours), make(H, *POSITIONAL[name], **nesterov))


@pytest.mark.parametrize("name", BY_KEYWORD)
def test_by_keyword_it_makes_the_iterates_of_optax(name):
    ours, given, make, said = BY_KEYWORD[name]
    assert_same(ours(H, **given), make(H, **said))


@pytest.mark.parametrize("name", RULES)
def test_what_may_stand_by_position_is_what_optax_takes_there(name):
    """One more would mean another thing to optax."""
    kinds = [p.kind for p in list(inspect.signature(RULES[name].__init__).parameters.values())[2:]]
    by_position = sum(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
    assert by_position == len(POSITIONAL[name])


def test_a_schedule_over_h_1_is_the_same_schedule_given_to_optax():
    """Its first factor is schedule(0), and it multiplies the whole update, decay of the weights and all."""
    schedule = optax.linear_schedule(0.125, 0.0, 16)
    assert_same(ia.Scheduled(ia.AdamW(1.0), schedule), optax.adamw(schedule))


# What users of other libraries write, and what they are told.
OTHER_NAMES = {
    "learning_rate": (lambda: ia.Adam(learning_rate=1e-3), "called learning_rate elsewhere is h here"),
    "lr": (lambda: ia.GradientDescent(lr=0.1), "called lr elsewhere is h here"),
    "b1": (lambda: ia.Adam(1e-3, b1=0.9), "called b1 elsewhere is beta here"),
    "b1-lion": (lambda: ia.Lion(1e-3, b1=0.9), "called b1 elsewhere is beta1 here"),
    "b2": (lambda: ia.NAdam(1e-3, b2=0.9), "called b2 elsewhere is rho here"),
    "b2-lion": (lambda: ia.Lion(1e-3, b2=0.9), "called b2 elsewhere is beta2 here"),
    "beta1": (lambda: ia.AdamW(1e-3, beta1=0.9), "called beta1 elsewhere is beta here"),
    "beta_2": (lambda: ia.AdamW(1e-3, beta_2=0.9), "called beta_2 elsewhere is rho here"),
    "b3": (lambda: ia.AdEMAMix(1e-3, b3=0.9), "called b3 elsewhere is beta_slow here"),
    "decay": (lambda: ia.RMSProp(1e-3, decay=0.9), "called decay elsewhere is rho here"),
    "alpha": (lambda: ia.RMSProp(1e-3, alpha=0.99), "called alpha elsewhere is rho here"),
    "momentum": (lambda: ia.HeavyBall(0.1, momentum=0.9), "called momentum elsewhere is beta here"),
    "epsilon": (lambda: ia.Adam(0.1, epsilon=1e-7), "called epsilon elsewhere is eps here"),
    "eps_root": (
        lambda: ia.Adam(0.1, eps_root=1e-8),
        "eps_root elsewhere is eps together with eps_in_sqrt=True",
    ),
    "initial": (
        lambda: ia.Adagrad(0.1, initial_accumulator_value=0.1),
        "called initial_accumulator_value elsewhere is initial_accumulator here",
    ),
    "of another algorithm": (
        lambda: ia.RMSProp(0.1, momentum=0.9),
        "'momentum'; it is called as RMSProp(h, rho=0.9",
    ),
    "a slip": (
        lambda: ia.Adam(0.1, epss=1e-7),
        "'epss'; it is called as Adam(h, beta=0.9, rho=0.999, eps=1e-08, *, ",
    ),
    "a rule of their own": (lambda: Own(learning_rate=0.1), "called learning_rate elsewhere is h here"),
    "nothing": (lambda: ia.Adam(), "'h'; it is called as Adam(h, "),
    "switches by position": (
        lambda: ia.RMSProp(0.1, 0.6, 0.1, False, True),
        "*, eps_in_sqrt=True, bias_correction=False",
    ),
    "eps_root by position": (lambda: ia.AdamW(0.1, 0.9, 0.999, 1e-8, 0.0), "too many positional"),
    "a placement in words": (
        lambda: ia.Adam(0.1, eps_in_sqrt="outside"),
        "must be True or False, got 'outside'",
    ),
    "an eps for a switch": (lambda: ia.Adam(0.1, eps_in_sqrt=1e-8), "must be True or False, got 1e-08"),
    "a switch for a number": (lambda: ia.Adam(0.1, 0.9, True), "must be a real number, got True"),
    "a complex number": (lambda: ia.Adam(0.1 + 1j), "must be a real number"),
    "None": (lambda: ia.Adam(0.1, eps=None), "must be a real number, got None"),
    "text": (lambda: ia.Adam("0.1"), "must be a real number, got '0.1'"),
}


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


@pytest.mark.parametrize(("build", "words"), OTHER_NAMES.values(), ids=OTHER_NAMES.keys())
def test_a_call_in_the_words_of_another_library_is_refused_and_told_ours(build, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        build()
