"""A learning-rate schedule on any rule."""

import dataclasses
from collections.abc import Callable
from typing import final

import equinox as eqx
import jax.numpy as jnp
import optax

from implicit_adam.checks import check_rule
from implicit_adam.rules.base import AbstractRule
from implicit_adam.types import Scalar


@final
class Scheduled(AbstractRule):
    """F^(n) = schedule(n) F_rule^(n): theta^(n+1) = theta^(n) - h schedule(n) F_rule^(n).

    - `rule`: any rule; its h is the base step size.
    - `schedule`: a function of the step number such as `optax.cosine_decay_schedule(1.0, 1000)`, a factor.

    Past updates enter the correction with the factors they had. There is no closed form and no limit.
    """

    h: Scalar
    rule: AbstractRule
    schedule: Callable = eqx.field(static=True)

    def __init__(self, rule: AbstractRule, schedule: Callable):
        check_rule(rule, AbstractRule)
        if not callable(schedule):
            msg = (
                f"schedule must be a function of the step number, got {schedule!r}; optax.constant_schedule?"
            )
            raise ValueError(msg)  # noqa: TRY004
        self.h, self.rule, self.schedule = rule.h, rule, schedule

    def features(self, g):
        return self.rule.features(g)

    def kernels(self, n):
        # A fixed point no longer means fixed updates, which both flags promise.
        return tuple(
            dataclasses.replace(kernel, unit_mass=False, forgets=False) for kernel in self.rule.kernels(n)
        )

    def readout(self, s, theta, n):
        # An int32 like the count of optax, whose dtype some schedules compute in.
        factor = jnp.asarray(self.schedule(jnp.asarray(n, jnp.int32))).astype(theta.dtype)
        return factor * self.rule.readout(s, theta, n)

    def transformation(self):
        base = self.rule.with_step_size(self.h).transformation()
        return optax.chain(base, optax.scale_by_schedule(self.schedule))
