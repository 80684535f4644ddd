"""One step of a diffrax solver across one interval [nh, (n+1)h] of the equation with carried memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.carrier import Carrier, Memory, carried_velocity
from implicit_adam.runs.interval import check_solver
from implicit_adam.types import Scalar, StepNumber, Vector

State = tuple[Vector, Memory]


def carried_step(
    carrier: Carrier, h: Scalar, order: int, start: StepNumber, solver: diffrax.AbstractSolver | None = None
) -> Callable[[StepNumber, State], tuple[State, Scalar]]:
    """`state, error = step(n, state)`: one step of a solver, with its error estimate for theta (max norm).

    The optimizer takes the first `start` steps itself. Raises `ValueError` for a solver that is not explicit.
    """
    check_solver(solver)
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        msg = f"solver: {type(solver).__name__} is implicit; take an explicit one such as diffrax.Heun()"
        raise ValueError(msg)  # noqa: TRY004
    solver = diffrax.Tsit5() if solver is None else solver
    velocity = carried_velocity(carrier, order)
    zero = jnp.zeros_like(h)

    def own(n: StepNumber, state: State) -> tuple[State, Scalar]:
        return carrier.step(n, *state), zero

    def solved(n: StepNumber, state: State) -> tuple[State, Scalar]:
        first = jnp.asarray(n).astype(h.dtype)

        def field(t: Any, state: State, _: Any) -> State:
            return jax.tree.map(lambda x: x / h.astype(x.dtype), velocity(first + jnp.asarray(t) / h, *state))

        terms = diffrax.ODETerm(field)
        begun = solver.init(terms, zero, h, state, None)
        end, error, *_ = solver.step(terms, zero, h, state, None, begun, made_jump=False)
        return end, jnp.full_like(h, jnp.nan) if error is None else jnp.max(jnp.abs(error[0]))

    def step(n: StepNumber, state: State) -> tuple[State, Scalar]:
        return jax.lax.cond(n < start, partial(own, n), partial(solved, n), state)

    return step
