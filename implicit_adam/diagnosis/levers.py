"""The levers: the quantities that `advise` varies, all in octaves u: one octave doubles, minus one halves.

    h            h 2^u                                    the number of steps stays, so time changes with h
    a decay d    1 - (1-d) 2^-u                           the steps remembered, 1/(1-d), times 2^u
    batch size   noise (m - r) / (r (m - 1)), r = 2^u     the variance of a batch r times as large, drawn from
                                                          the m given, which are all the data

Decays stop at 0, where nothing is remembered, and the batch size at full batch.
"""

from dataclasses import fields
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import ALLOWED, DECAY, POSITIVE_DECAY
from implicit_adam.rules.scheduled import below_schedules
from implicit_adam.types import Scalar

STEP_SIZE, BATCH_SIZE = "h", "batch_size"
DECAYS = (DECAY[ALLOWED], POSITIVE_DECAY[ALLOWED])


def names(inputs: Inputs) -> list[str]:
    """The names of the levers: h, the decays of a rule, and the batch size if there are mini-batches."""
    return [STEP_SIZE, *_decays(inputs.rule), *[BATCH_SIZE] * (inputs.objective.m > 1)]


def value(inputs: Inputs, name: str) -> float:
    """The present value of a lever; for the batch size 1, the size of the batches given."""
    if name == BATCH_SIZE:
        return 1.0
    return float(inputs.rule.h if name == STEP_SIZE else getattr(below_schedules(inputs.rule), name))


def has_half(inputs: Inputs, name: str) -> bool:
    """Whether a lever can be halved: a decay below 1/2 cannot remember half as many steps."""
    return name in (STEP_SIZE, BATCH_SIZE) or value(inputs, name) >= 1 / 2


def turned(inputs: Inputs, octaves: Float[Array, " levers"]) -> Inputs:
    """The inputs of the run with every lever changed by its number of octaves, in the order of `names`."""
    rule, m = inputs.rule, inputs.objective.m
    factors = jnp.exp2(octaves)
    rule = rule.with_step_size(factors[0] * rule.h)
    for name, factor in zip(_decays(rule), factors[1:], strict=False):
        d = getattr(below_schedules(rule), name)
        rule = eqx.tree_at(
            lambda rule, name=name: getattr(below_schedules(rule), name), rule, _remembering(d, factor)
        )
    if m > 1:
        inputs = inputs._replace(noise=(m - factors[-1]) / (factors[-1] * (m - 1)))
    return inputs._replace(rule=rule)


def _remembering(d: Scalar, factor: Scalar) -> Scalar:
    """The decay that remembers `factor` times as many steps as d."""
    new = 1 - (1 - d) / factor
    return jnp.where(new >= 0, new, jnp.zeros_like(new))


def _decays(rule: Any) -> list[str]:
    """The names of a rule's decays; those of a transformation are hidden in it."""
    if not isinstance(rule, AbstractRule):
        return []
    return [field.name for field in fields(below_schedules(rule)) if field.metadata.get(ALLOWED) in DECAYS]
