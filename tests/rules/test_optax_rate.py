"""A learning rate given twice, as h and inside the transformation, is warned of; nothing else is."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import implicit_adam as ia
from implicit_adam.rules.from_optax.rate import learning_rate, warn_of_a_rate_twice
from implicit_adam.studies.optax_examples import ALIASES, entries
from tests import examples

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
REQUIRED = {"key": 0, "l2_norm_clip": 1.0, "noise_multiplier": 0.1}


def with_defaults(name):
    module, _, last = name.rpartition(".")
    factory = getattr(optax.contrib if module else optax, last)
    required = {k: v for k, v in REQUIRED.items() if k in inspect.signature(factory).parameters}
    return lambda rate: factory(learning_rate=rate, **required)


# Those that need more than update(gradient, state, params) are refused before.
NOT_RUN = {"lbfgs", "contrib.momo", "contrib.momo_adam", "contrib.sophia", "contrib.dpsgd", "polyak_sgd"}
NOT_RUN |= {"lookahead"}
MAKE = {name: make for name, (_, make) in entries().items() if name not in NOT_RUN}
MAKE |= {f"{name}, defaults": with_defaults(name) for name in ALIASES if name not in NOT_RUN}

# Where it is not the last factor: momentum, a size, a distance or a mask come after, or it is no factor.
INSIDE = {"adafactor", "lars", "rprop", "contrib.cocob", "contrib.dadapt_adamw", "contrib.madgrad"}
INSIDE |= {"contrib.prodigy", "contrib.schedule_free_adamw", "contrib.schedule_free_sgd", "contrib.mechanize"}
INSIDE |= {"contrib.sam", "contrib.schedule_free", "chain, nonnegative", "conditionally_transform"}
RMSPROP_WITH_MOMENTUM = "rmsprop"


def warned(tx, h, params=PARAMS):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn_of_a_rate_twice(ia.Optax(h, tx), params)
    return [str(x.message) for x in seen]


@pytest.mark.parametrize("name", MAKE)
def test_of_learning_rate_one_nothing_is_said_and_of_a_small_one_it_is(name):
    def make(rate):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return MAKE[name](rate)

    for h in (1e-2, 1e-3, 1e-6):
        assert not warned(make(1.0), h)
    inside = name.removesuffix(", defaults") in INSIDE or name == RMSPROP_WITH_MOMENTUM
    assert bool(warned(make(1e-3), 1e-3)) != inside
    assert not warned(make(1e-3), 0.1)


SCHEDULES = {
    "warm-up from zero": (optax.linear_schedule(0.0, 1.0, 1000), False),
    "late start": (lambda n: jnp.where(n < 5000, 0.0, 1.0), False),
    "decay to nothing": (optax.exponential_decay(1.0, 10, 0.1), False),
    "cosine": (optax.cosine_decay_schedule(1.0, 100), False),
    "small warm-up": (optax.linear_schedule(0.0, 1e-3, 1000), True),
    "small cosine": (optax.cosine_decay_schedule(1e-3, 100), True),
}


@pytest.mark.parametrize(("schedule", "small"), SCHEDULES.values(), ids=SCHEDULES.keys())
def test_schedules_are_looked_at_early_and_late(schedule, small):
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=schedule)
    for tx in (
        optax.adam(schedule),
        injected,
        optax.MultiSteps(optax.sgd(schedule), 3).gradient_transformation(),
    ):
        assert bool(warned(tx, 1e-3)) == small


OTHERS = {
    "weight decay": optax.adamw(1.0, weight_decay=1e-4),
    "weight decay after": optax.chain(optax.sgd(1.0), optax.add_decayed_weights(-1e-4)),
    "small gradients": optax.sgd(1.0),
    "clipped to little": optax.chain(optax.clip_by_global_norm(1e-4), optax.sgd(1.0)),
    "a trust ratio": optax.lars(1.0, trust_coefficient=1e-3),
    "an average": optax.chain(optax.sgd(1.0), optax.ema(0.999, debias=False)),
    "only some frozen": optax.chain(
        optax.sgd(1.0), optax.masked(optax.set_to_zero(), {"w": True, "b": False})
    ),
    "some slow": optax.partition({"w": optax.sgd(1.0), "b": optax.sgd(1e-4)}, {"w": "w", "b": "b"}),
    "all frozen": optax.set_to_zero(),
}


@pytest.mark.parametrize("tx", OTHERS.values(), ids=OTHERS.keys())
def test_what_else_makes_updates_small_is_no_learning_rate(tx):
    assert not warned(tx, 1e-3)


def test_it_is_said_where_the_run_begins_and_is_true():
    rule = ia.Optax(1e-3, optax.adam(1e-3))
    with pytest.warns(UserWarning, match=r"multiplied by 0\.001 .*learning rate 1e-06\. .*ia\.Optax\(0\.001"):
        run = ia.iterate(rule, examples.full_loss, examples.START, 1)
    np.testing.assert_allclose(jnp.abs(run.params[1] - run.params[0]), 1e-6, rtol=1e-4)
    with pytest.warns(UserWarning, match="multiplied by"):
        ia.vector_field(rule, examples.full_loss)(0, examples.START)
    for tx in (ia.Optax(1e-3, optax.adam(1.0)), optax.adam(1e-3)):
        ia.iterate(tx, examples.full_loss, examples.START, 1)


def test_traced_rates_are_unknown():
    def rate(x):
        assert learning_rate(optax.adam(x), PARAMS) is None
        return x

    jax.jit(rate)(1e-3)
    jax.vmap(
        lambda h: ia.iterate(ia.Optax(h, optax.sgd(1e-3)), examples.full_loss, examples.START, 1).finite
    )(jnp.asarray([1e-3, 1e-2]))
