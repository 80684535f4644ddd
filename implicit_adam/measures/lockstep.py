"""Solves equations in lockstep with the optimizer and stores only the largest distances."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.carried_field import carrier_of
from implicit_adam.fields.vector_field import raveled_field
from implicit_adam.inputs import Inputs
from implicit_adam.loops import loop
from implicit_adam.measures.watched import Watch, Watched, remembered, watched, watched_steps
from implicit_adam.runs.carried_step import carried_step
from implicit_adam.runs.interval import interval_step
from implicit_adam.runs.iterate import optimizer_step
from implicit_adam.types import Scalar, StepNumber, Vector


class Equation(NamedTuple):
    """An equation: its state at the start, `state, error = step(n, state)`, and `point(state)` -> theta."""

    start: Any
    step: Callable[[StepNumber, Any], tuple[Any, Scalar]]
    point: Callable[[Any], Vector]


class Supremum(NamedTuple):
    """Maxima over one run: each equation's largest error in both norms, and the optimizer's own figures.

    `size` and `travelled` are the largest ||theta|| and ||theta - start||; `solver_error` is the largest sum
    of the solver's error estimates among the equations; `remembered` and `watched` are those of `watched.py`.
    """

    two_norm: tuple[Scalar, ...]
    max_norm: tuple[Scalar, ...]
    size: Scalar
    travelled: Scalar
    solver_error: Scalar
    remembered: Scalar
    watched: Watched


def supremum(
    inputs: Inputs,
    steps: StepNumber,
    orders: tuple[int, ...],
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
) -> Supremum:
    """sup_{n <= steps} of the distance between the iterates and the flow of each order.

    `steps` may be traced.
    """
    rule, objective, theta = inputs.rule, inputs.objective, inputs.theta
    flows = [
        Equation(
            theta,
            interval_step(raveled_field(rule, objective, order), rule.h, solver, controller),
            lambda theta: theta,
        )
        for order in orders
    ]
    return _lockstep(
        inputs, steps, flows, remembered(rule, objective, theta, steps), watched(rule, objective)
    )


def carried_supremum(
    inputs: Inputs,
    steps: StepNumber,
    orders: tuple[int, ...],
    start: StepNumber,
    solver: diffrax.AbstractSolver | None = None,
) -> Supremum:
    """As `supremum`, for the equations with carried memory after `start` steps of the optimizer itself."""
    rule = inputs.rule
    equations = [carried_equation(inputs, order, start, solver) for order in orders]
    return _lockstep(
        inputs, steps, equations, jnp.zeros_like(rule.h), watched_steps(rule, inputs.objective, start)
    )


def carried_equation(
    inputs: Inputs, order: int, start: StepNumber, solver: diffrax.AbstractSolver | None = None
) -> Equation:
    """The equation with carried memory: `start` steps of the optimizer, then one solver step per interval."""
    carrier, theta = carrier_of(inputs), inputs.theta
    step = carried_step(carrier, inputs.rule.h, order, start, solver)
    return Equation((theta, carrier.start(theta)), step, lambda state: state[0])


def _lockstep(
    inputs: Inputs,
    steps: StepNumber,
    equations: list[Equation],
    half: Scalar,
    watching: tuple[Watched, Watch],
) -> Supremum:
    theta = inputs.theta
    start, step = optimizer_step(inputs.rule, inputs.objective)
    nothing, watch = watching

    def advance(n: StepNumber, carry: Any) -> Any:
        before, optimizer, states, spent, sup = carry
        here, optimizer = optimizer[0], step(n, optimizer)
        moved = [equation.step(n, state) for equation, state in zip(equations, states, strict=True)]
        states = tuple(state for state, _ in moved)
        spent = tuple(x + error for x, (_, error) in zip(spent, moved, strict=True))
        points = [equation.point(state) for equation, state in zip(equations, states, strict=True)]
        differences = [point - optimizer[0] for point in points]
        now = Supremum(
            tuple(jnp.linalg.norm(difference) for difference in differences),
            tuple(jnp.max(jnp.abs(difference)) for difference in differences),
            jnp.linalg.norm(optimizer[0]),
            jnp.linalg.norm(optimizer[0] - theta),
            jnp.max(jnp.stack(spent)),
            sup.remembered,
            watch(n, before, here, optimizer[0], sup.watched),
        )
        return here, optimizer, states, spent, jax.tree.map(jnp.maximum, sup, now)

    zero, each = jnp.zeros((), theta.dtype), (jnp.zeros((), theta.dtype),) * len(equations)
    none = Supremum(each, each, jnp.linalg.norm(theta), zero, zero, half, nothing)
    begun = tuple(equation.start for equation in equations)
    return loop(0, steps, advance, (theta, start(theta), begun, each, none))[-1]
