"""Across one interval [nh, (n+1)h] of the modified equation with any diffrax solver, on local time [0, h].

The field changes at every multiple of h. Deriving n from t would pick the wrong interval at stage times near
the right end, so a solver never sees more than one interval and n is given.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.loops import forward_only
from implicit_adam.runs.travel import allowed_error, travel_controller
from implicit_adam.types import Field, Scalar, StepNumber, Vector

IntervalStep = Callable[[StepNumber, Vector], tuple[Vector, Scalar]]


def check_solver(solver: Any) -> None:
    """A diffrax solver, not its class, or None for the default."""
    if not isinstance(solver, diffrax.AbstractSolver | None):
        msg = f"solver must be a diffrax solver such as diffrax.Heun(), got {solver!r}"
        raise ValueError(msg)  # noqa: TRY004


class Move(NamedTuple):
    """Across one interval: theta((n+1)h) - theta(nh), its error estimate, and the velocity at the start."""

    by: Vector
    error: Scalar
    velocity: Vector


def interval_step(
    field: Field,
    h: Scalar,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
) -> IntervalStep:
    """`theta, error = step(n, theta)` across [nh, (n+1)h], with the solver's local error estimate (max norm).

    One solver step, unless a step size controller asks for as many as its tolerance needs.
    """
    move = interval_move(field, h, solver, controller)

    def step(n: StepNumber, theta: Vector) -> tuple[Vector, Scalar]:
        by, error, _ = move(n, theta)
        return theta + by, error

    return step


def interval_move(
    field: Field,
    h: Scalar,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
) -> Callable[[StepNumber, Vector], Move]:
    """The same, before the new point is rounded."""
    check_solver(solver)
    if not isinstance(controller, diffrax.AbstractStepSizeController | None):
        msg = (
            "stepsize_controller must be one of diffrax, such as "
            f"diffrax.PIDController(rtol=1e-9, atol=1e-9), got {controller!r}"
        )
        raise ValueError(msg)  # noqa: TRY004
    solver = _differentiable(diffrax.Tsit5() if solver is None else solver)
    if controller is None and not isinstance(solver, diffrax.AbstractImplicitSolver):
        return _single_step(field, h, solver)
    return _adaptive_steps(field, h, solver, controller)


def _differentiable(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """Stages in a loop that both modes of autodiff accept: diffrax's default rejects `jax.jvp`."""
    if isinstance(solver, diffrax.AbstractRungeKutta) and solver.scan_kind is None:
        return eqx.tree_at(lambda s: s.scan_kind, solver, "bounded", is_leaf=lambda x: x is None)
    return solver


def _single_step(
    field: Field, h: Scalar, solver: diffrax.AbstractSolver
) -> Callable[[StepNumber, Vector], Move]:
    def move(n: StepNumber, theta: Vector) -> Move:
        # Traced once for the start and the stages.
        velocity = jax.jit(field(n), inline=True)
        terms = diffrax.ODETerm(lambda t, y, args: velocity(theta + y))
        zero, here = jnp.zeros_like(h), jnp.zeros_like(theta)
        # Fresh solver state: a first stage kept from the interval before belongs to another field.
        state = solver.init(terms, zero, h, here, None)
        by, error, info, _, _ = solver.step(terms, zero, h, here, None, state, made_jump=False)
        size = jnp.full_like(h, jnp.nan) if error is None else jnp.max(jnp.abs(error))
        # The first stage of a Runge-Kutta solver is h times the velocity.
        return Move(by, size, info["k"][0] / h if "k" in info else velocity(theta))

    return move


def _adaptive_steps(
    field: Field,
    h: Scalar,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController | None,
) -> Callable[[StepNumber, Vector], Move]:
    def move(n: StepNumber, theta: Vector) -> Move:
        velocity = field(n)
        # Without a controller time is counted in steps, and errors are relative to the movement of this one.
        unit = h if controller is None else jnp.ones_like(h)
        own = travel_controller(jnp.finfo(h.dtype).eps ** (2 / 3), theta, h * velocity(theta))
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: unit * velocity(y)),
            solver,
            jnp.zeros_like(h),
            h / unit,
            None,
            theta,
            stepsize_controller=own if controller is None else controller,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        solved = solution.result == diffrax.RESULTS.successful
        end = jnp.where(solved, forward_only(jnp.asarray(solution.ys)[0]), jnp.full_like(theta, jnp.nan))
        accepted = solution.stats["num_accepted_steps"].astype(end.dtype)
        spent = accepted * allowed_error(own if controller is None else controller, end)
        return Move(end - theta, spent, velocity(theta))

    return move
