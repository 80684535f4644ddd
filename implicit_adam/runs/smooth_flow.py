"""`smooth_flow`: the modified equation in one adaptive solve, whose steps cross many steps of the optimizer.

Full batch: in closed form the field depends on n only through the mean lags of Remark 3.2, which are smooth
in n. With n = t/h - 1/2 (exact in the middle of each interval) the field is smooth in t, and the solution
changes by less than a tenth of the theorem's own error.

At order 2 the first steps, where the lags are far from linear in n, are taken interval by interval. After
them, the mean lag is replaced by a function of t whose average over the interval of step n is the mean lag of
step n, which leaves an error of O(h^3) with a small constant.

Cyclic mini-batches: interval by interval until the memory has settled, then along a single field that stands
for all phases of an epoch. Its solution agrees with the settled flow at the ends of epochs up to O(h^2).

The cost hardly depends on h: only through the tolerance, which shrinks with the theorem's own error.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks.runs import check_saved, check_saves
from implicit_adam.fields.full_batch.closed_form import check_has_limit, closed_form_terms, has_closed_form
from implicit_adam.fields.full_batch.lag_moments import smooth_lag_moments
from implicit_adam.fields.mini_batch.settled_epoch import epoch_velocity, settling_steps
from implicit_adam.fields.terms import field_of
from implicit_adam.fields.vector_field import raveled_field, with_kernels
from implicit_adam.inputs import Inputs
from implicit_adam.loops import forward_only, loop
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.checked_run import checked_run
from implicit_adam.runs.interval import IntervalStep, check_controller, check_solver, interval_step
from implicit_adam.runs.trajectory import Trajectory, all_finite
from implicit_adam.runs.travel import allowed_error, rms, travel_controller
from implicit_adam.runs.validity import at_saves, warned
from implicit_adam.types import Batches, Field, Loss, Params, Scalar, StepNumber, Vector, Velocity

Saved = Float[Array, "saves p"]

# Order 2 takes this many steps one by one, since the lags are far from linear in n there.
EARLY = 32

# Bounds of the solve's tolerance, relative to the distance from the start: at most LOOSEST, and at least
# TIGHTEST times the rounding of the dtype.
LOOSEST, TIGHTEST = 1e-9, 10
# The tolerance is this fraction of the theorem's own error.
MARGIN = 1e-2


def smooth_flow(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    steps: int,
    *,
    order: int = 1,
    batches: Batches = None,
    schedule: Any = None,
    shifted: bool = False,
    save_every: int = 1,
    save_at: Any = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
) -> Trajectory:
    """Solve the modified equation with a continuous step number n = t/h - 1/2, in one adaptive solve.

    The field is then smooth in t, and one solver step crosses thousands of optimizer steps, at a cost that
    hardly depends on h (benchmarks/README.md has figures for a million steps).

    - In full batch: for bias-corrected memory (`ia.Adam`, `optax.adamw`), up to order 2. The result differs
      from that of `flow` by less than a tenth of its distance to the optimizer, or by the rounding of n
      additions, eps sqrt(n) ||theta|| with eps the rounding of the dtype (tested up to n = 1e6).
    - In cyclic mini-batches: for a memory that fades, up to order 1. It goes interval by interval until the
      memory has settled to the tolerance, then follows one field for whole epochs, which agrees with `flow`
      at the ends of epochs up to O(h^2) (at order 0 to O(h), the error of that flow itself).

    Raises `ValueError` in all other cases; use `flow` there.

    - `rule`, `loss`, `params`, `steps`, `order`, `batches`, `shifted`: as in `flow`; `schedule` must be None,
      the cyclic order.
    - `save_every`, or `save_at` (increasing step numbers up to `steps`): what to save, besides the start; the
      run ends with the last. In mini-batches both are multiples of the number of mini-batches.
    - `solver`: any diffrax solver; `diffrax.Tsit5()` by default. An implicit one is better for a small eps,
      where the field is stiff around vanishing gradients. After 65536 solver steps it gives up.
    - `stepsize_controller`: by default, errors are relative to the distance from the start, and the tolerance
      of a solver step is a hundredth of r^(order+1), r = |h f_1| / |f_0| at the start, and at most 1e-9. Or
      any diffrax controller.

    Returns a `Trajectory`: `step_error` is the error that the tolerance allows each solver step, `validity`
    is measured at five of the saved points. A run that diverges, or whose solver gives up, is flagged
    (`finite`), never raised. Warns and raises as `flow` does. Compiles once for all values of the
    hyperparameters and the start. Derivatives: forward mode (`jax.jvp`, `jax.jacfwd`).
    """
    check_solver(solver)
    check_controller(stepsize_controller)
    steps, save_every = check_saves(steps, save_every)
    inputs = checked_run(rule, loss, params, steps, batches, schedule, order=order, shifted=shifted)
    saved = check_saved(steps, save_every, save_at)
    check_smooth(inputs, saved, order)
    run = _smooth_flow(inputs, jnp.asarray(saved), order, solver, stepsize_controller)
    return warned(run, order)


@eqx.filter_jit
def _smooth_flow(
    inputs: Inputs,
    saved: Int[Array, " saves"],
    order: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> Trajectory:
    if inputs.objective.m == 1:
        inputs = inputs._replace(rule=_in_closed_form(inputs))
    rule = inputs.rule
    corrected, leading = (raveled_field(rule, inputs.objective, q) for q in (order, 0))
    early = interval_step(corrected, rule.h)
    thetas, errors = smooth_solution(inputs, saved, order, early, solver, controller)
    unknown = jnp.full_like(errors, jnp.nan)
    return Trajectory(
        saved.astype(rule.h.dtype) * rule.h,
        jax.vmap(inputs.unraveled)(thetas),
        all_finite(thetas),
        errors,
        at_saves(corrected, leading, saved, thetas) if order > 0 else unknown,
        unknown,
    )


def check_smooth(inputs: Inputs, saved: np.ndarray, order: int) -> None:
    """Raise `ValueError` unless full batch with a closed form, or cyclic batches and a fading memory."""
    rule, m = inputs.rule, inputs.objective.m
    if order > (2 if m == 1 else 1):
        msg = (
            f"smooth_flow is of order 2 at most in full batch and 1 in mini-batches, got order = {order}; "
            "use ia.flow"
        )
        raise ValueError(msg)
    if m == 1:
        _in_closed_form(inputs)
    if m > 1:
        check_has_limit(rule)
        if inputs.schedule is not None:
            msg = "smooth_flow in mini-batches needs the cyclic schedule; leave schedule out, or use ia.flow"
            raise ValueError(msg)
        if (saved % m).any():
            msg = (
                "smooth_flow meets the flow at the ends of epochs: the saved steps (save_every, save_at) "
                f"must be multiples of m = {m}, got {saved[1]}, .."
            )
            raise ValueError(msg)


def _in_closed_form(inputs: Inputs) -> Any:
    """The optimizer as features, kernels and a readout that is the same at every step, or `ValueError`."""
    form = with_kernels(inputs.rule, inputs.objective)
    if form is None or not has_closed_form(form):
        msg = (
            "smooth_flow in full batch needs a memory of the gradients of all parameters that is "
            "bias-corrected, without a window, such as that of ia.Adam or optax.adamw; "
            f"got {type(inputs.rule).__name__}; use ia.flow"
        )
        raise ValueError(msg)
    return form


def smooth_solution(
    inputs: Inputs,
    saved: Int[Array, " saves"],
    order: int,
    step: IntervalStep,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> tuple[Saved, Float[Array, " saves"]]:
    """The points at the saved step numbers (the first is 0), and the error allowed per solver step."""
    rule, theta = inputs.rule, inputs.theta
    late = _late_field(inputs)
    tolerance = _tolerance(late(0)(theta), late(1)(theta), order)
    # A controller given by the user counts time as it is, the default one in steps of the optimizer.
    unit = jnp.ones_like(rule.h) if controller is not None else rule.h
    if controller is None:
        controller = travel_controller(tolerance, theta, rule.h * late(0)(theta))
    times = saved.astype(theta.dtype) * rule.h
    allowed = jax.vmap(partial(allowed_error, controller))
    if inputs.objective.m == 1 and order < 2:
        field = field_of(rule, inputs.objective, closed_form_terms(rule, inputs.objective, order, flow=True))
        points = _solve(lambda t, y: field(t / rule.h - 1 / 2)(y), theta, times, unit, solver, controller)
        return points, allowed(points)

    first, field = _settled(inputs, saved[-1], order, tolerance)
    point, early = _interval_by_interval(step, theta, first, saved)
    # Times before the start of the solve are moved to its start; their points come from the first part.
    start = jnp.asarray(first, times.dtype) * rule.h
    late = _solve(
        lambda t, y: field((start + t) / rule.h - 1 / 2)(y),
        point,
        jnp.maximum(times - start, 0),
        unit,
        solver,
        controller,
    )
    points = jnp.where((times <= start)[:, None], early, late)
    return points, allowed(points)


def _late_field(inputs: Inputs) -> Callable[[int], Velocity]:
    """The field of order 0 or 1 once the memory has settled."""
    rule, objective = inputs.rule, inputs.objective
    if objective.m > 1:
        return partial(epoch_velocity, rule, objective)
    return lambda order: field_of(rule, objective, closed_form_terms(rule, objective, order, flow=True))(
        jnp.inf
    )


def _tolerance(plain: Vector, corrected: Vector, order: int) -> Scalar:
    """`MARGIN` r^(order+1), r = |h f_1| / |f_0|: a hundredth of the theorem's own error, within bounds."""
    size = rms(plain)
    share = rms(corrected - plain) / jnp.where(size > 0, size, jnp.ones_like(size))
    share = jnp.where(jnp.isfinite(share) & (size > 0), share, jnp.ones_like(share))
    wanted = jnp.minimum(MARGIN * share ** (order + 1), LOOSEST)
    return jnp.maximum(wanted, TIGHTEST * jnp.finfo(plain.dtype).eps)


def _settled(inputs: Inputs, steps: StepNumber, order: int, tolerance: Scalar) -> tuple[StepNumber, Field]:
    """How many steps are taken interval by interval, and the field from there on."""
    rule, objective = inputs.rule, inputs.objective
    if objective.m == 1:
        terms = closed_form_terms(rule, objective, 2, flow=True, moments=smooth_lag_moments)
        return jnp.minimum(EARLY, steps), field_of(rule, objective, terms)
    velocity = epoch_velocity(rule, objective, order)
    return jnp.minimum(settling_steps(rule, objective.m, tolerance), steps), lambda n: velocity


def _interval_by_interval(
    step: IntervalStep, theta: Vector, first: StepNumber, saved: Int[Array, " saves"]
) -> tuple[Vector, Saved]:
    """The point after `first` steps, and the points up to there that are saved."""
    points = jnp.zeros((len(saved), theta.size), theta.dtype).at[0].set(theta)

    def advance(n: StepNumber, carry: tuple[Vector, Saved]) -> tuple[Vector, Saved]:
        point, points = carry
        point, _ = step(n, point)
        # The row is overwritten until the step that is to be saved.
        return point, points.at[jnp.searchsorted(saved, n + 1)].set(point, mode="drop")

    return loop(0, first, advance, (theta, points))


def _solve(
    velocity: Callable[[Any, Vector], Vector],
    start: Vector,
    times: Float[Array, " saves"],
    unit: Scalar,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController,
) -> Saved:
    times = times / unit
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: unit * velocity(unit * t, y)),
        diffrax.Tsit5() if solver is None else solver,
        jnp.zeros_like(times[0]),
        times[-1],
        None,
        start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode(),
        max_steps=2**16,
        throw=False,
    )
    solved = solution.result == diffrax.RESULTS.successful
    return jnp.where(solved, forward_only(jnp.asarray(solution.ys)), jnp.full_like(start, jnp.nan)[None])
