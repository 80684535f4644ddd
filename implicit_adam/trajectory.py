"""A run of an optimizer or of its flow, and the loop that records it."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_adam.reprs import line
from implicit_adam.types import Flag, Params, Scalar, StepNumber

State = TypeVar("State")


class Trajectory(NamedTuple):
    """Points of a run at the saved times, the start included.

    - `t`: (saves,) times n h.
    - `params`: the saved points, a pytree like the parameters with a leading axis of saves.
    - `finite`: whether every saved number is finite; False marks a run that diverged or whose solver failed.
    - `step_error`: (saves,) the largest local error estimate (max norm) among the intervals since the last
      save, by the embedded method of the flow's solver; zero for an optimizer, NaN where the solver has none.
    """

    t: Float[Array, " saves"]
    params: Params
    finite: Flag
    step_error: Float[Array, " saves"]

    def __repr__(self) -> str:
        return line(self)


def all_finite(tree: PyTree) -> Flag:
    """Whether every number of a pytree is finite."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite))


def record(
    step: Callable[[StepNumber, State], tuple[State, Scalar]],
    start: State,
    steps: int,
    save_every: int,
    dtype: jnp.dtype,
) -> tuple[State, Float[Array, " saves"]]:
    """Run `state, error = step(n, state)`; stack the states and the largest errors at every save.

    The integer n is carried along, never recovered from a time: floor(t/h) picks the wrong interval.
    """

    def advance(carry: tuple[State, Scalar], n: Int[Array, ""]) -> tuple[tuple[State, Scalar], None]:
        state, largest = carry
        state, error = step(n, state)
        return (state, jnp.maximum(largest, error)), None

    def segment(state: State, first: Int[Array, ""]) -> tuple[State, tuple[State, Scalar]]:
        ns = first + jnp.arange(save_every)
        (state, largest), _ = jax.lax.scan(advance, (state, jnp.zeros((), dtype)), ns)
        return state, (state, largest)

    _, (states, errors) = jax.lax.scan(segment, start, jnp.arange(0, steps, save_every))
    states = jax.tree.map(lambda x0, x: jnp.concatenate([jnp.asarray(x0)[None], x]), start, states)
    return states, jnp.concatenate([jnp.zeros((1,), dtype), errors])


def saved_times(h: Scalar, steps: int, save_every: int) -> Float[Array, " saves"]:
    """n h for the saved n, each by one product rather than by repeated addition."""
    return jnp.arange(0, steps + 1, save_every).astype(h.dtype) * h
