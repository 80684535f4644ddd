"""Integrates the modified equation across one interval [nh, (n+1)h] with any diffrax solver.

The field changes at every multiple of h. Deriving n from t would pick the wrong interval at stage times near
the right end. So a solver only ever sees one interval, on local time [0, h], and n is given.
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

# A velocity, and other quantities computed with it whose values are wanted at the start of the interval.
Rates = tuple[Vector, ...]
IntervalStep = Callable[[StepNumber, Vector], tuple[Vector, Scalar]]


def check_solver(solver: Any) -> None:
    """Raise `ValueError` unless `solver` is an instance of a diffrax solver, or None for the default."""
    if not isinstance(solver, diffrax.AbstractSolver | None):
        msg = f"solver must be a diffrax solver such as diffrax.Heun(), got {solver!r}"
        raise ValueError(msg)  # noqa: TRY004


def check_controller(controller: Any) -> None:
    """A diffrax step size controller, not its class, or None for the default."""
    if not isinstance(controller, diffrax.AbstractStepSizeController | None):
        msg = (
            "stepsize_controller must be one of diffrax, such as "
            f"diffrax.PIDController(rtol=1e-9, atol=1e-9), got {controller!r}"
        )
        raise ValueError(msg)  # noqa: TRY004


def solver_of_order(order: int) -> diffrax.AbstractSolver:
    """The cheapest diffrax solver whose own error is no larger than that of a flow of this order.

    With one step per interval, a solver of order s has a global error of O(h^s), and the flow of
    O(h^(order+1)).
    """
    solvers = (diffrax.Heun, diffrax.Heun, diffrax.Bosh3, diffrax.Tsit5)
    return solvers[order]()


class Move(NamedTuple):
    """The result of one interval: theta((n+1)h) - theta(nh), its error estimate, the rates at the start."""

    by: Vector
    error: Scalar
    rates: Rates


def interval_step(
    field: Field,
    h: Scalar,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
) -> IntervalStep:
    """`theta, error = step(n, theta)` across [nh, (n+1)h], with the solver's local error estimate (max norm).

    It takes one step of the solver (by default Tsit5, whose own error is far below that of a flow of any
    order), or with a step size controller as many as its tolerance needs.
    """

    def alone(n: StepNumber) -> Callable[[Vector], Rates]:
        velocity = field(n)
        return lambda theta: (velocity(theta),)

    move = interval_move(alone, h, solver, controller)

    def step(n: StepNumber, theta: Vector) -> tuple[Vector, Scalar]:
        by, error, _ = move(n, theta)
        return theta + by, error

    return step


def interval_move(
    rates: Callable[[StepNumber], Callable[[Vector], Rates]],
    h: Scalar,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
) -> Callable[[StepNumber, Vector], Move]:
    """As `interval_step`, but returns the `Move`, not yet rounded; `rates(n)(theta)` is (velocity, ..)."""
    check_solver(solver)
    check_controller(controller)
    solver = _differentiable(diffrax.Tsit5() if solver is None else solver)
    if controller is None and not isinstance(solver, diffrax.AbstractImplicitSolver):
        return _single_step(rates, h, solver)
    return _adaptive_steps(rates, h, solver, controller)


def _differentiable(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The solver with a loop over stages that both modes of autodiff accept; diffrax's rejects `jax.jvp`."""
    if isinstance(solver, diffrax.AbstractRungeKutta) and solver.scan_kind is None:
        return eqx.tree_at(lambda s: s.scan_kind, solver, "bounded", is_leaf=lambda x: x is None)
    return solver


def _single_step(
    rates: Callable[[StepNumber], Callable[[Vector], Rates]], h: Scalar, solver: diffrax.AbstractSolver
) -> Callable[[StepNumber, Vector], Move]:
    def move(n: StepNumber, theta: Vector) -> Move:
        # Traced once for the start and the stages.
        rates_n = jax.jit(rates(n), inline=True)
        # The other rates are integrated beside the velocity, so that the first stage has their values.
        here = jax.tree.map(jnp.zeros_like, jax.eval_shape(rates_n, theta))
        terms = diffrax.ODETerm(lambda t, y, args: rates_n(theta + y[0]))
        zero = jnp.zeros_like(h)
        # A fresh solver state: a first stage kept from the interval before would be of another field.
        state = solver.init(terms, zero, h, here, None)
        (by, *_), error, info, _, _ = solver.step(terms, zero, h, here, None, state, made_jump=False)
        size = jnp.full_like(h, jnp.nan) if error is None else jnp.max(jnp.abs(error[0]))
        # The first stage of a Runge-Kutta solver is h times the rates.
        first = tuple(k[0] / h for k in info["k"]) if "k" in info else rates_n(theta)
        return Move(by, size, first)

    return move


def _adaptive_steps(
    rates: Callable[[StepNumber], Callable[[Vector], Rates]],
    h: Scalar,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController | None,
) -> Callable[[StepNumber, Vector], Move]:
    def move(n: StepNumber, theta: Vector) -> Move:
        rates_n = rates(n)
        first = rates_n(theta)
        # Without a controller, time is counted in steps, and errors are relative to this interval's movement.
        unit = h if controller is None else jnp.ones_like(h)
        own = travel_controller(jnp.finfo(h.dtype).eps ** (2 / 3), theta, h * first[0])
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: unit * rates_n(y)[0]),
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
        return Move(end - theta, spent, first)

    return move
