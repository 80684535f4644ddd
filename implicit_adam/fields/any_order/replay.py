"""An optimizer re-run over a given history, one step after the other.

For the higher orders an optimizer is a loop: a memory, empty at first, that takes a gradient and gives the
update F. Rules keep one sum for each exponential of their kernels, S <- decay S + psi(g); optax
transformations keep their own state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from implicit_adam.fields.mini_batch.history_sum import first_remembered, memory_of
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer, AbstractRule
from implicit_adam.rules.feature_sums import next_sums, no_sums, read
from implicit_adam.rules.from_optax.clock import Clock
from implicit_adam.rules.from_optax.probe import behaviour
from implicit_adam.rules.from_optax.rule import Optax, raveled_transformation
from implicit_adam.rules.from_optax.state import away_from_zero, initial_state, set_forward
from implicit_adam.types import StepNumber, Vector

State = Any


class Replay(NamedTuple):
    """The update loop, re-run over a given history.

    - `first(n, order)`: the first step that matters for the terms of step n up to an order.
    - `start(k, theta)`: the empty memory before step k.
    - `step(k, state, g, theta)` -> F^(k) and the next state.
    """

    first: Callable[[StepNumber, int], StepNumber]
    start: Callable[[StepNumber, Vector], State]
    step: Callable[[StepNumber, State, Vector, Vector], tuple[Vector, State]]


def replay(optimizer: AbstractOptimizer, objective: Objective) -> Replay:
    """The loop of a rule, by its kernels, or of an optax transformation, by its own `update`."""
    if isinstance(optimizer, AbstractRule):
        return _of_kernels(optimizer, objective)
    assert isinstance(optimizer, Optax)
    return _of_optax(optimizer, objective)


def _of_kernels(rule: AbstractRule, objective: Objective) -> Replay:
    memory = memory_of(rule, objective)

    def start(_: StepNumber, theta: Vector) -> State:
        return no_sums(rule.kernels(0), theta)

    def step(k: StepNumber, state: State, g: Vector, theta: Vector) -> tuple[Vector, State]:
        kernels = rule.kernels(k)
        state = next_sums(kernels, state, rule.features(g))
        return rule.readout(read(kernels, state), theta, k), state

    # Every power of h brings a displacement, which grows with the lag.
    return Replay(lambda n, order: first_remembered(memory, n, moment=order), start, step)


def _of_optax(rule: Optax, objective: Objective) -> Replay:
    tx = raveled_transformation(rule.tx, objective.unravel)

    def clock() -> Clock:
        found = behaviour(rule.tx, objective.params)
        assert found is not None  # or the window has been refused
        return found.clock

    def first(n: StepNumber, _: int) -> StepNumber:
        """The first step inside the window, moved back to where a period of the state begins."""
        if rule.window is None:
            return 0
        period = clock().period
        begun = n - rule.window
        return (max(begun, 0) if isinstance(n, int) else jnp.maximum(begun, 0)) // period * period

    def start(k: StepNumber, theta: Vector) -> State:
        state = initial_state(tx, theta)
        if rule.window is None:
            return state
        period, advance, _ = clock()
        return set_forward(state, advance, k // period)

    def step(_: StepNumber, state: State, g: Vector, theta: Vector) -> tuple[Vector, State]:
        updates, state = tx.update(away_from_zero(g), state, theta)
        return -jnp.asarray(updates), state

    return Replay(first, start, step)
