"""The modified field of order 1, split by cause."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from implicit_adam.fields.full_batch.closed_form import check_has_limit, closed_form_terms
from implicit_adam.fields.vector_field import checked_step, raveled_field
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.reprs import norms
from implicit_adam.rules.base import AbstractRule
from implicit_adam.types import Batches, Loss, Params, StepNumber


class Decomposition(NamedTuple):
    """The parts of f^(n), each a pytree like the parameters; they sum to the field.

    - `leading`: -F, the sign-type flow of full-batch training late in a run.
    - `discreteness`: -h DF[F, .., F]/2, from steps of finite size (the only correction of gradient descent).
    - `memory`: -h DF[u], from remembering gradients of earlier points.
    - `transient`: the change in the three above while the memory is still filling (finite n).
    - `minibatch`: the change in all of the above due to the differences between the mini-batches.
    """

    leading: Params
    discreteness: Params
    memory: Params
    transient: Params
    minibatch: Params

    def __repr__(self) -> str:
        return norms(self)


def decompose(
    rule: AbstractRule,
    loss: Loss,
    params: Params,
    n: StepNumber,
    *,
    batches: Batches = None,
    schedule: Any = None,
) -> Decomposition:
    """Split the first-order field of step n: leading + discreteness + memory + transient + minibatch = f^(n).

    The full-batch loss is the mean over the mini-batches. Arguments as in `vector_field`. Raises `ValueError`
    for a rule without a limit n to infinity (Adagrad, schedules), from which the transient part is measured.
    """
    check_has_limit(rule)
    inputs = checked_inputs(rule, loss, params, batches, schedule)
    return _decomposition(identified(inputs), checked_step(inputs, n, 1))


@eqx.filter_jit
def _decomposition(inputs: Inputs, n: StepNumber) -> Decomposition:
    rule, theta, objective = inputs.rule, inputs.theta, inputs.objective
    whole = objective.full_batch()

    F, memory = closed_form_terms(rule, whole, 1, flow=False)(jnp.inf)(theta)
    _, both = closed_form_terms(rule, whole, 1, flow=True)(jnp.inf)(theta)
    limit = -(F + rule.h * both)
    full_batch = raveled_field(rule, whole, order=1)(n)(theta)
    field = raveled_field(rule, objective, order=1)(n)(theta)

    parts = (-F, -rule.h * (both - memory), -rule.h * memory, full_batch - limit, field - full_batch)
    return Decomposition(*(inputs.unraveled(part) for part in parts))
