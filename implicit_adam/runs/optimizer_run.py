"""Continues an optimizer from a given state, through optax, and returns only the last point and state."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.types import Batches, Loss, Params, StepNumber


def advanced(
    rule: AbstractOptimizer,
    loss: Loss,
    params: Params,
    opt_state: Any,
    steps: int,
    *,
    batches: Batches = None,
    first: int = 0,
) -> tuple[Params, Any]:
    """(params, opt_state) after `steps` more steps, with the mini-batches in order; the next step is `first`.

    `opt_state` is a state of `rule.transformation()`, or None at the start of a run.
    """
    inputs = checked_inputs(rule, loss, params, batches, products=False, equation=False)
    return on_from(identified(inputs), opt_state, jnp.asarray(first), jnp.asarray(steps))


@eqx.filter_jit
def on_from(inputs: Inputs, opt_state: Any, first: StepNumber, steps: StepNumber) -> tuple[Params, Any]:
    """As `advanced`, from checked inputs."""
    tx, objective = inputs.rule.transformation(), inputs.objective

    def advance(n: StepNumber, carry: Any) -> Any:
        params, state = carry
        g = inputs.unraveled(objective.step_gradient(inputs._replace(params=params).theta, n))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    begun = tx.init(inputs.params) if opt_state is None else opt_state
    start = (inputs.params, jax.tree.map(jnp.asarray, begun))
    return jax.lax.fori_loop(first, first + steps, advance, start)
