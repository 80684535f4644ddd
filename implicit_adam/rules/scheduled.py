"""A learning-rate schedule on any rule."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike

from implicit_adam.checks.numbers import is_traced
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import POSITIVE
from implicit_adam.types import Scalar, StepNumber

# For a warning: up to RATE, h looks like a learning rate, and so do factors up to TIMES h at steps LOOKS.
RATE, TIMES = 1e-2, 10
LOOKS = (0, *(10**k for k in range(7)))


@final
class Scheduled(AbstractRule):
    """A rule with a learning-rate schedule: theta^(n+1) = theta^(n) - h schedule(n) F_rule^(n).

    - `rule`: any rule; its h is the base step size.
    - `schedule`: a function of the step number, 0 at the first step, such as
      `optax.cosine_decay_schedule(1.0, 1000)`. It is a factor of h: for a schedule of learning rates give the
      rule h = 1. `ia.Scheduled(ia.Adam(1.0), schedule)` has the iterates of `optax.adam(schedule)`. A
      schedule that looks like learning rates, with an h that looks like one already, gives a warning.

    The factor multiplies the whole update, including momentum and weight decay, as in optax and PyTorch (in
    Keras's SGD the momentum remembers each gradient with the rate of its own step). Past updates enter the
    correction with the factors they had. Time is n h whatever the factors are. There is no closed form and no
    limit n to infinity.
    """

    h: Scalar = eqx.field(metadata=POSITIVE)
    rule: AbstractRule
    schedule: Callable = eqx.field(static=True)

    def __init__(self, rule: AbstractRule, schedule: Callable):
        if callable(rule) and isinstance(schedule, AbstractRule):
            msg = "rule and schedule are swapped: ia.Scheduled(ia.Adam(1.0), schedule)"
            raise ValueError(msg)  # noqa: TRY004
        check_rule(rule, AbstractRule)
        if not callable(schedule):
            msg = (
                f"schedule must be a function of the step number, got {schedule!r}; optax.constant_schedule?"
            )
            raise ValueError(msg)  # noqa: TRY004
        # optax's own schedules mix floats with an int32 count.
        with jax.numpy_dtype_promotion("standard"):
            factor = jax.eval_shape(lambda n: jnp.asarray(schedule(n)), jax.ShapeDtypeStruct((), jnp.int32))
        if factor.shape != ():
            msg = f"schedule must return one number, the factor of the step size, got shape {factor.shape}"
            raise ValueError(msg)
        self.h, self.rule, self.schedule = rule.h, rule, schedule
        _warn_of_a_rate_twice(self.h, schedule)

    def at(self, n: StepNumber) -> AbstractRule:
        """The rule with the step size of step n, h schedule(n)."""
        return cast(AbstractRule, self.rule.with_step_size(self.h * self._factor(n, self.h.dtype)))

    def features(self, g):
        return self.rule.features(g)

    def kernels(self, n):
        # The update frozen at a point keeps changing with the schedule.
        return tuple(dataclasses.replace(kernel, forgets=False) for kernel in self.rule.kernels(n))

    def readout(self, s, theta, n):
        return self._factor(n, theta.dtype) * self.rule.readout(s, theta, n)

    def readout_between_steps(self, s, theta, n):
        factor = between_steps(lambda n: jnp.asarray(self.schedule(n)).astype(theta.dtype), n)
        return factor * self.rule.readout_between_steps(s, theta, n)

    def sums(self, opt_state):
        return self.rule.sums(opt_state)

    def transformation(self):
        base = self.rule.with_step_size(self.h).transformation()
        return optax.chain(base, optax.scale_by_schedule(self.schedule))

    def _factor(self, n: StepNumber, dtype: DTypeLike) -> Scalar:
        # An int32 like optax's count, since some schedules compute in its dtype; it stops at the largest.
        count = jnp.minimum(jnp.asarray(n), jnp.iinfo(jnp.int32).max).astype(jnp.int32)
        return jnp.asarray(self.schedule(count)).astype(dtype)


def below_schedules(rule: Any) -> Any:
    """The rule below any schedules, with its own step size; another optimizer as it is."""
    while isinstance(rule, Scheduled):
        rule = rule.rule
    return rule


def unscheduled(rule: AbstractRule, n: StepNumber | None) -> AbstractRule:
    """The rule inside any schedules, with the step size of step n."""
    while isinstance(rule, Scheduled):
        if n is None:
            msg = "a rule on a schedule has a different step size at every step: give the step number n"
            raise ValueError(msg)
        rule = rule.at(n)
    return rule


def _warn_of_a_rate_twice(h: Scalar, schedule: Callable) -> None:
    """Warn if h and the schedule both look like learning rates, since their product is the step size."""
    if is_traced(h) or float(h) > RATE:
        return
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        factors = [schedule(jnp.asarray(n, jnp.int32)) for n in LOOKS]
    if any(is_traced(factor) for factor in factors):
        return
    largest = max(abs(float(factor)) for factor in factors)
    if 0 < largest <= TIMES * float(h):
        msg = (
            f"the schedule is a factor of h = {float(h):g} and at most {largest:g} where it was looked at: "
            f"the steps are at most {largest * float(h):g}; if it is a schedule of learning rates, give the "
            "rule h = 1: ia.Scheduled(ia.Adam(1.0), schedule)"
        )
        warnings.warn(msg, stacklevel=5)


def between_steps(at: Callable[[Array], Any], n: Scalar) -> Any:
    """at(n), a pytree, for an n that is not an integer, from values of `at` at integers >= 0.

    Cubic interpolation through the four nearest integers: exact at integers, and its integral equals the sum
    over them, jumps included. (Linear interpolation would be off by 1/8 of a second difference in the mean
    over a step.)
    """
    below = jnp.floor(jnp.maximum(n, jnp.zeros_like(n)))
    x = jnp.maximum(n, jnp.zeros_like(n)) - below
    weights = {
        -1: -x * (x - 1) * (x - 2) / 6,
        0: (x + 1) * (x - 1) * (x - 2) / 2,
        1: -(x + 1) * x * (x - 2) / 2,
        2: (x + 1) * x * (x - 1) / 6,
    }
    terms = []
    for offset, weight in weights.items():
        known = at(jnp.maximum(below.astype(jnp.int32) + offset, 0))
        terms.append(jax.tree.map(lambda y, weight=weight: weight.astype(y.dtype) * y, known))
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *terms)
