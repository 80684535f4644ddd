"""What a run takes (an optimizer, a loss, a start, batches and their order), checked and in one dtype."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.checks import (
    check_batches,
    check_loss,
    check_params,
    check_rule,
    check_schedule,
)
from implicit_adam.objective import Objective, ravel, raveled, unravel_like
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.optax_rule import Optax, as_optimizer, check_differentiable
from implicit_adam.types import Batches, Loss, Params, Schedule, Vector


class Training(NamedTuple):
    """An optimizer on a loss from a start. A pytree of arrays but for the loss, so that it can be jitted."""

    rule: Any
    loss: Loss
    params: Params
    batches: Batches
    schedule: Schedule | None
    shifted: bool = False

    @property
    def objective(self) -> Objective:
        """The mini-batch losses on flat vectors."""
        objective = raveled(self.loss, self.params, self.batches, self.schedule)
        return objective._replace(shift=self.rule.h) if self.shifted else objective

    @property
    def theta(self) -> Vector:
        """The start as a flat vector."""
        return ravel(self.params)

    def unraveled(self, theta: Vector) -> Params:
        """A flat vector as a pytree like the start."""
        return unravel_like(self.params)(theta)


def checked_training(
    rule: Any,
    loss: Any,
    params: Any,
    batches: Any = None,
    schedule: Any = None,
    steps: int = 1,
    *,
    shifted: bool = False,
) -> Training:
    """Refuse with a `ValueError` whatever cannot be run; the hyperparameters take the parameters' dtype."""
    rule = as_optimizer(rule)
    check_rule(rule, AbstractOptimizer)
    m = check_batches(batches)
    schedule = check_schedule(schedule, m, steps)
    params, batches = check_params(params), jax.tree.map(jnp.asarray, batches)
    check_loss(loss, params, batches)
    if isinstance(rule, Optax):
        check_differentiable(rule.tx, params)
    dtype = jax.tree.leaves(params)[0].dtype
    return Training(rule.astype(dtype), loss, params, batches, schedule, shifted)
