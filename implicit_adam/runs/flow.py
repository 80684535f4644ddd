"""`flow`: integrates the optimizer's modified equation with diffrax, interval by interval."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.runs import check_saves
from implicit_adam.fields.terms import with_leading
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.checked_run import checked_run
from implicit_adam.runs.interval import interval_move, solver_of_order
from implicit_adam.runs.trajectory import (
    Place,
    Trajectory,
    Watched,
    all_finite,
    at_start,
    record,
    saved_times,
)
from implicit_adam.runs.validity import size_of_correction, warned
from implicit_adam.types import Batches, Loss, Params, StepNumber


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
    shifted: bool = False,
    save_every: int = 1,
) -> Trajectory:
    """Solve the modified equation d theta / dt = f^(n)(theta) on [nh, (n+1)h], n = 0 .. steps - 1.

    The solution stays within O(h^(order+1)) of `iterate` with the same arguments, uniformly up to any fixed
    time (Theorem 3.1 for order 1).

    - `rule`, `loss`, `params`, `steps`, `batches`, `schedule`, `save_every`: as in `iterate`.
    - `order`: 0 for the leading (sign-type) flow, 1 for the paper's correction, 2 and 3 for the next terms.
    - `solver`: any diffrax solver. The default is the cheapest whose error is of the same order as that of
      the flow itself, O(h^(order+1)): Heun (2 evaluations of the field a step) up to order 1, Bosh3 (4) at
      order 2, Tsit5 (7) at order 3. Take `diffrax.Tsit5()` to solve the equation far more exactly than it
      follows the optimizer, or where h times the curvature comes near 2, Heun's limit of stability.
    - `stepsize_controller`: None takes one solver step per interval (of length h). A diffrax controller, e.g.
      `diffrax.PIDController(rtol=1e-9, atol=1e-9)`, lets the solver adapt *inside* each interval, which helps
      for small eps, where the field flips within a width sqrt(eps) around a vanishing gradient; the default
      solver is then Tsit5. Implicit solvers adapt by default, because their root finder needs a tolerance:
      eps^(2/3) of each interval's own movement, with eps the rounding of the dtype.
    - `shifted`: use shifted gradients in place of Hessian-vector products, which is cheaper and of the same
      order; see `vector_field`.

    Returns a `Trajectory` whose `step_error` holds the solver's error estimates. A run that diverges, or
    whose solver gives up, is flagged (`finite`), never raised. From order 1 on `validity` holds, at no extra
    cost, the size of the correction over the leading flow at every step; where it passes 1 the series says
    nothing, and outside jit an `OutsideRangeWarning` says so, once a call. Raises `ValueError` for bad
    arguments. Compiles once for all values of the hyperparameters and the start. Derivatives: forward mode
    (`jax.jvp`, `jax.jacfwd`) always; reverse mode (`jax.grad`) up to order 1 for full-batch training with
    bias-corrected memory and one solver step per interval; elsewhere it raises `RuntimeError`.
    """
    steps, save_every = check_saves(steps, save_every)
    inputs = checked_run(rule, loss, params, steps, batches, schedule, order=order, shifted=shifted)
    return warned(_flow(inputs, steps, save_every, order, solver, stepsize_controller), order)


@eqx.filter_jit
def _flow(
    inputs: Inputs,
    steps: int,
    save_every: int,
    order: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> Trajectory:
    rule, theta = inputs.rule, inputs.theta
    if solver is None and controller is None:
        solver = solver_of_order(order)
    rates = with_leading(rule, inputs.objective, exact_terms(rule, inputs.objective, order, flow=True))
    move = interval_move(rates, rule.h, solver, controller)

    def step(n: StepNumber, place: Place) -> tuple[Place, Watched]:
        by, error, (velocity, plain) = move(n, place.theta)
        watched = Watched(error, size_of_correction(velocity, plain))
        return place.moved(by, lambda theta: theta), watched

    (thetas, lost), watched = record(step, at_start(theta), steps, save_every, Place.seen)
    unknown = jnp.full_like(lost, jnp.nan)
    hidden = controller is not None or isinstance(solver, diffrax.AbstractImplicitSolver)
    return Trajectory(
        saved_times(rule.h, steps, save_every),
        jax.vmap(inputs.unraveled)(thetas),
        all_finite(thetas),
        watched.step_error,
        watched.validity if order > 0 else unknown,
        unknown if hidden else lost,
    )
