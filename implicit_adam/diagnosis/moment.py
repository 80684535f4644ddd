"""`Moment`: the point of a run, the optimizer's own state there, and the same state as carried memories."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.numbers import check_count, is_traced
from implicit_adam.fields.carried.carried_field import carried_inputs, carrier_of
from implicit_adam.fields.carried.carrier import Memory
from implicit_adam.fields.carried.fading import weight
from implicit_adam.fields.carried.rule_carrier import which_are_deltas
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.from_optax.packed import packed_memories
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.rules.from_optax.state import without_zeros
from implicit_adam.rules.opt_state import last_step
from implicit_adam.rules.scheduled import Scheduled
from implicit_adam.runs.optimizer_run import on_from
from implicit_adam.types import Batches, Loss, Params, Scalar

# The steps that the optimizer takes before the diagnosis of a new run.
FIRST = 10
# The step number for an optimizer that does not count steps: its update is the same at each.
LATE = 1e6


class Moment(NamedTuple):
    """A run after `n` steps, at `inputs.params`: the optax state and the carried memories there.

    `opt_state` is a state of `inputs.rule.transformation()`.
    """

    inputs: Inputs
    n: Scalar
    opt_state: Any
    memory: Memory


def moment(rule: Any, loss: Loss, params: Params, opt_state: Any, batches: Batches, step: Any) -> Moment:
    """The moment of a run with this state; without a state, after ten steps of the optimizer from params."""
    now = without_memory(rule, loss, params, opt_state, batches, step)
    return now._replace(memory=memory_of(now.inputs, now.opt_state))


def without_memory(
    rule: Any, loss: Loss, params: Params, opt_state: Any, batches: Batches, step: Any
) -> Moment:
    """The same with None as memory, for optimizers whose memory may not be carried."""
    inputs = carried_inputs(rule, loss, params, batches, None, products=True)
    if opt_state is None:
        if step is not None:
            msg = (
                f"step = {step} is that of an opt_state, and there is none: without one the run begins at "
                "params; give the state of the run, or leave step out"
            )
            raise ValueError(msg)
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
    """Raise `ValueError` for traced values, since the words of the result depend on them."""
    if any(is_traced(x) for x in jax.tree.leaves(trees)):
        msg = f"{owner} chooses words by values: call it outside of jax.jit and jax.vmap"
        raise ValueError(msg)


def _of_transformation(inputs: Inputs, opt_state: Any) -> Any:
    """The state as one of `rule.transformation()`; raises `ValueError` if it is of another optimizer.

    A state of `ia.Optax`'s `tx` alone lacks the state of the step size, and one of optax.adam(schedule) has
    the same numbers as that of a scheduled rule in a different nesting.
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
    counted = jnp.asarray(last_step(opt_state), float) + 1
    if step is not None:
        step = check_count("step", step)
        if jnp.isfinite(counted) and counted != step:
            msg = f"step = {step}, but opt_state has counted {int(counted)} steps; leave step out"
            raise ValueError(msg)
        return jnp.asarray(step, float)
    if counted == 0:
        msg = "opt_state has not seen a gradient yet; leave it out, or take a step first"
        raise ValueError(msg)
    return jnp.where(jnp.isinf(counted), LATE, counted)


def memory_of(inputs: Inputs, opt_state: Any) -> Memory:
    """The memories in this optax state, in the form of `carried_field`."""
    rule, theta = inputs.rule, inputs.theta
    if isinstance(rule, Optax):
        packed = packed_memories(rule.tx, inputs.objective.params)
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
