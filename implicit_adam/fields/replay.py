"""An optimizer run again over a given history, one step after the other.

What the higher orders need of an optimizer is the loop it is: a memory, begun empty, that takes a gradient
and gives the update F. Rules of kernels keep one sum for each exponential, S <- decay S + psi(g); optax
transformations keep their own state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.fields.past import first_remembered
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer, AbstractRule
from implicit_adam.rules.optax_rule import Optax, raveled
from implicit_adam.types import StepNumber, Vector

State = Any


class Replay(NamedTuple):
    """A history that can be lived through again.

    - `first(n)`: the first step that step n still remembers.
    - `start(k, theta)`: the memory before step k, empty.
    - `step(k, state, g, theta)` -> F^(k) and the next state.
    """

    first: Callable[[StepNumber], StepNumber]
    start: Callable[[StepNumber, Vector], State]
    step: Callable[[StepNumber, State, Vector, Vector], tuple[Vector, State]]


def replay(optimizer: AbstractOptimizer, objective: Objective) -> Replay:
    """By the kernels where there are some, else by the optax twin."""
    if isinstance(optimizer, AbstractRule):
        return _of_kernels(optimizer)
    assert isinstance(optimizer, Optax)
    return _of_optax(optimizer, objective)


def _of_kernels(rule: AbstractRule) -> Replay:
    decays = [kernel.decay for kernel in rule.kernels(0)]

    def start(_: StepNumber, theta: Vector) -> State:
        return [jnp.zeros((decay.size, theta.size), theta.dtype) for decay in decays]

    def step(k: StepNumber, state: State, g: Vector, theta: Vector) -> tuple[Vector, State]:
        state = [
            decay[:, None] * S + psi[None]
            for decay, S, psi in zip(decays, state, rule.features(g), strict=True)
        ]
        s = tuple(
            jnp.sum(kernel.scale[:, None] * S, axis=0)
            for kernel, S in zip(rule.kernels(k), state, strict=True)
        )
        return rule.readout(s, theta, k), state

    return Replay(lambda n: first_remembered(rule, n), start, step)


def _of_optax(rule: Optax, objective: Objective) -> Replay:
    tx = raveled(rule.tx, objective.unravel)

    def start(k: StepNumber, theta: Vector) -> State:
        def begun(x: Any) -> Any:
            return x + jnp.asarray(k, x.dtype) if _is_counter(x) else x

        return jax.tree.map(begun, tx.init(theta))

    def step(_: StepNumber, state: State, g: Vector, theta: Vector) -> tuple[Vector, State]:
        updates, state = tx.update(g, state, theta)
        return -jnp.asarray(updates), state

    return Replay(lambda n: _first_seen(rule, n), start, step)


def _first_seen(rule: Optax, n: StepNumber) -> StepNumber:
    """The first step that the window still sees."""
    if rule.window is None:
        return 0
    return max(n - rule.window, 0) if isinstance(n, int) else jnp.maximum(n - rule.window, 0)


def _is_counter(x: Any) -> bool:
    return eqx.is_array(x) and x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer)
