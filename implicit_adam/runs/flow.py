"""The optimizer's modified equation, integrated with diffrax interval by interval.

The field changes at every multiple of h, so the integer n is scanned over and each interval is integrated
on local time [0, h]: deriving n from t picks the wrong interval at stage times near the right end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from implicit_adam.checks import check_flag, check_order, check_saves, check_shifted_order, check_steps
from implicit_adam.fields.vector_field import HIGHEST_ORDER, raveled_field
from implicit_adam.inputs import Training, checked_training, identified
from implicit_adam.loops import forward_only
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.smooth import check_smooth, smooth_solution
from implicit_adam.runs.trajectory import (
    Place,
    Trajectory,
    Watched,
    all_finite,
    at_start,
    record,
    saved_times,
)
from implicit_adam.runs.travel import allowed_error, travel_controller
from implicit_adam.runs.validity import at_saves, size_of_correction, warned
from implicit_adam.types import Batches, Field, Loss, Params, Scalar, StepNumber, Vector

IntervalStep = Callable[[StepNumber, Vector], tuple[Vector, Scalar]]


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
    if not isinstance(solver, diffrax.AbstractSolver | None):
        msg = f"solver must be a diffrax solver such as diffrax.Heun(), got {solver!r}"
        raise ValueError(msg)  # noqa: TRY004
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
        velocity = field(n)
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


def flow(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    steps: int,
    *,
    order: int = 1,
    batches: Batches = None,
    schedule: Any = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    smooth: bool = False,
    shifted: bool = False,
    save_every: int = 1,
    save_at: Any = None,
) -> Trajectory:
    """The solution of the modified equation d theta / dt = f^(n)(theta) on [nh, (n+1)h], from the same start.

    Stays within O(h^(order+1)) of `iterate` with the same arguments, uniformly up to any fixed time
    (Theorem 3.1 for order 1).

    - `rule`, `loss`, `params`, `steps`, `batches`, `schedule`, `save_every`: as in `iterate`.
    - `order`: 0 for the leading (sign-type) flow, 1 for the paper's correction, 2 and 3 for the next terms.
    - `solver`: any diffrax solver; `diffrax.Tsit5()` by default.
    - `stepsize_controller`: None takes one solver step an interval (of length h). A diffrax controller, e.g.
      `diffrax.PIDController(rtol=1e-9, atol=1e-9)`, lets the solver adapt *inside* each interval, for small
      eps, where the field turns over within a width sqrt(eps) of a vanishing gradient. Implicit solvers,
      whose root finder needs a tolerance, adapt by default, to eps^(2/3) of each interval's own movement.
    - `smooth`: make the step number continuous, n = t/h - 1/2, and cross all steps in one adaptive solve, at
      a cost that hardly depends on h: milliseconds for a million steps. For full-batch training with
      bias-corrected memory. The tolerance of a solver step is relative to the distance from the start: a
      hundredth of r^(order+1), r = |h f_1| / |f_0| at the start, and at most 1e-9. That moves the solution by
      less than a tenth of its distance to the optimizer, or by what n additions round off, eps sqrt(n)
      ||theta|| with eps the rounding of the dtype (tested up to n = 1e6); `step_error` is then what the
      tolerance allows each solver step. An implicit `solver` crosses the stiff sign layers of a small eps.
      After 65536 solver steps it gives up, which is flagged. For cyclic mini-batches and a memory that fades:
      interval by interval until the memory has settled to the tolerance, then one field for whole epochs,
      which meets the flow at the ends of epochs up to O(h^2) (at order 0 to O(h), the error of that flow
      itself); `save_every` is a multiple of the number of mini-batches. Others are refused, and so are order
      3 and, in mini-batches, order 2.
    - `save_at`: with `smooth`, increasing step numbers up to `steps` to save at, beside the start, in place
      of every `save_every`-th; the run ends with the last.
    - `shifted`: shifted gradients in place of Hessian-vector products, cheaper at the same order; see
      `vector_field`.

    Returns a `Trajectory` whose `step_error` holds the solver's error estimates. A diverging run, or a
    solver that gave up, is flagged (`finite`), never raised. From order 1 on `validity` holds the size of the
    correction over the leading flow, at every step (with `smooth`, at five of the saved points), for one
    gradient a step more, about 5% of the time; where it passes 1 the series says nothing and, outside jit, an
    `OutsideRangeWarning` says so, once a call. Raises `ValueError` for bad arguments. Compiles
    once for all values of the hyperparameters and the start. Derivatives: forward mode (`jax.jvp`,
    `jax.jacfwd`) always, reverse mode (`jax.grad`) up to order 1 for full-batch training with
    bias-corrected memory and one solver step an interval; elsewhere it raises `RuntimeError`.
    """
    check_order(order, HIGHEST_ORDER)
    check_shifted_order(order, shifted=shifted)
    check_flag("smooth", smooth)
    steps, save_every = check_saves(steps, save_every)
    training = checked_training(
        rule, loss, params, batches, schedule, steps, shifted=shifted, products=order > 0
    )
    if smooth:
        saved = np.arange(0, steps + 1, save_every) if save_at is None else check_steps(save_at, steps)
        check_smooth(training, saved, order)
        run = _smooth_flow(identified(training), jnp.asarray(saved), order, solver, stepsize_controller)
        return warned(run, order)
    if save_at is not None:
        msg = "save_at needs smooth=True; a flow interval by interval saves every save_every-th step"
        raise ValueError(msg)
    return warned(_flow(identified(training), steps, save_every, order, solver, stepsize_controller), order)


@eqx.filter_jit
def _flow(
    training: Training,
    steps: int,
    save_every: int,
    order: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> Trajectory:
    rule, theta = training.rule, training.theta
    move = interval_move(raveled_field(rule, training.objective, order), rule.h, solver, controller)
    leading = raveled_field(rule, training.objective, 0)

    def step(n: StepNumber, place: Place) -> tuple[Place, Watched]:
        by, error, velocity = move(n, place.theta)
        plain = leading(n)(jax.lax.stop_gradient(place.theta)) if order > 0 else velocity
        watched = Watched(error, size_of_correction(velocity, plain))
        return place.moved(by, lambda theta: theta), watched

    (thetas, lost), watched = record(step, at_start(theta), steps, save_every, Place.seen)
    unknown = jnp.full_like(lost, jnp.nan)
    hidden = controller is not None or isinstance(solver, diffrax.AbstractImplicitSolver)
    return Trajectory(
        saved_times(rule.h, steps, save_every),
        jax.vmap(training.unraveled)(thetas),
        all_finite(thetas),
        watched.step_error,
        watched.validity if order > 0 else unknown,
        unknown if hidden else lost,
    )


@eqx.filter_jit
def _smooth_flow(
    training: Training,
    saved: Int[Array, " saves"],
    order: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> Trajectory:
    rule = training.rule
    corrected, leading = (raveled_field(rule, training.objective, q) for q in (order, 0))
    early = interval_step(corrected, rule.h)
    thetas, errors = smooth_solution(training, saved, order, early, solver, controller)
    unknown = jnp.full_like(errors, jnp.nan)
    return Trajectory(
        saved.astype(rule.h.dtype) * rule.h,
        jax.vmap(training.unraveled)(thetas),
        all_finite(thetas),
        errors,
        at_saves(corrected, leading, saved, thetas) if order > 0 else unknown,
        unknown,
    )
