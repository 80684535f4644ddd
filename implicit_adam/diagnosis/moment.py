"""A moment of a run: the point, the optimizer's own state, and the same state as a memory that is carried."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.numbers import check_count, is_traced
from implicit_adam.fields.carried.carried_field import carried_inputs, carrier_of
from implicit_adam.fields.carried.carrier import Memory
from implicit_adam.fields.carried.fading import weight
from implicit_adam.fields.carried.optax_memory import packed_memories
from implicit_adam.fields.carried.rule_carrier import which_are_deltas
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.rules.from_optax.state import without_zeros
from implicit_adam.rules.opt_state import last_step
from implicit_adam.rules.scheduled import Scheduled
from implicit_adam.runs.optimizer_run import on_from
from implicit_adam.types import Batches, Loss, Params, Scalar

# The steps that a run takes at first, with a memory as short as a step.
FIRST = 10
# A step number for an optimizer that counts none: its update is the same at each.
LATE = 1e6


class Moment(NamedTuple):
    """After `n` steps, at `inputs.params`: the state of `inputs.rule.transformation()`, and the memory."""

    inputs: Inputs
    n: Scalar
    opt_state: Any
    memory: Memory


def moment(rule: Any, loss: Loss, params: Params, opt_state: Any, batches: Batches, step: Any) -> Moment:
    """The moment of a run with this state; without one, after the optimizer's first ten steps from params."""
    now = without_memory(rule, loss, params, opt_state, batches, step)
    return now._replace(memory=memory_of(now.inputs, now.opt_state))


def without_memory(
    rule: Any, loss: Loss, params: Params, opt_state: Any, batches: Batches, step: Any
) -> Moment:
    """The same where none may be carried, with None for the memory."""
    inputs = carried_inputs(rule, loss, params, batches, None)
    if opt_state is None:
        params, opt_state = on_from(inputs, None, jnp.asarray(0), jnp.asarray(FIRST))
        inputs, step = inputs._replace(params=params), FIRST
    opt_state = _of_transformation(inputs, opt_state)
    n = _steps_taken(opt_state, step)
    return Moment(inputs, n.astype(inputs.theta.dtype), opt_state, None)


def not_carried(inputs: Inputs) -> str | None:
    """Why the memory of this optimizer cannot be carried, None where it can."""
    try:
        carrier_of(inputs)
    except ValueError as error:
        return str(error)
    return None


def check_known(owner: str, *trees: Any) -> None:
    """Words go by values."""
    if any(is_traced(x) for x in jax.tree.leaves(trees)):
        msg = f"{owner} chooses words by values: call it outside of jax.jit and jax.vmap"
        raise ValueError(msg)


def _of_transformation(inputs: Inputs, opt_state: Any) -> Any:
    """The state of `rule.transformation()`; that of `ia.Optax`'s `tx` alone is one without the step size, and
    that of optax.adam(schedule) has the numbers of a scheduled rule's in other brackets.
    """
    rule, params = inputs.rule, inputs.params
    if isinstance(rule, Optax) and _alike(opt_state, jax.eval_shape(rule.tx.init, params)):
        return (opt_state, optax.scale(1.0).init(params))
    expected = jax.eval_shape(rule.transformation().init, params)
    if isinstance(rule, Scheduled) and _shapes(opt_state) == _shapes(expected):
        return jax.tree.unflatten(jax.tree.structure(expected), jax.tree.leaves(opt_state))
    if not _alike(opt_state, expected):
        msg = (
            "opt_state is not a state of this optimizer for these params: it must have the structure and "
            "shapes of tx.init(params), of the transformation given or of rule.transformation(); got "
            f"{jax.tree.structure(opt_state)}, expected {jax.tree.structure(expected)}"
        )
        raise ValueError(msg)
    return opt_state


def _alike(state: Any, expected: Any) -> bool:
    return jax.tree.structure(state) == jax.tree.structure(expected) and _shapes(state) == _shapes(expected)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(x) for x in jax.tree.leaves(tree)]


def _steps_taken(opt_state: Any, step: Any) -> Any:
    if step is not None:
        return jnp.asarray(check_count("step", step), float)
    counted = jnp.asarray(last_step(opt_state), float) + 1
    if counted == 0:
        msg = "opt_state has not seen a gradient yet; leave it out, or take a step first"
        raise ValueError(msg)
    return jnp.where(jnp.isinf(counted), LATE, counted)


def memory_of(inputs: Inputs, opt_state: Any) -> Memory:
    """What the optimizer remembers in this state, in the units of its carried memory."""
    rule, theta = inputs.rule, inputs.theta
    if isinstance(rule, Optax):
        packed = packed_memories(rule, inputs.objective, theta)
        return packed.memory(without_zeros(opt_state[0]))
    rule = cast(AbstractRule, rule)
    sums = zip(which_are_deltas(rule), rule.kernels(0), rule.sums(opt_state), strict=True)
    return tuple(
        tuple(
            None if delta or A is None else weight(d) * A.astype(theta.dtype)
            for delta, d, A in zip(deltas, kernel.decay, row, strict=True)
        )
        for deltas, kernel, row in sums
    )
