"""The modified equation in one sweep: full-batch training with the step number as a continuous variable.

In closed form the field depends on n only through the mean lags of Remark 3.2, smooth functions of n. With

    n = t/h - 1/2

in them (the middle of the interval stands for the whole of it) the field is smooth in t, and the solution
moves by far less than the theorem's own error. One adaptive solve then crosses thousands of optimizer steps
at once, and its cost no longer depends on h.
"""

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.fields.closed_form import closed_form, has_closed_form
from implicit_adam.fields.expansion import modified_field
from implicit_adam.rules.base import AbstractRule
from implicit_adam.training import Training
from implicit_adam.trajectory import saved_times
from implicit_adam.types import Vector


def check_smooth(training: Training) -> None:
    """The step number can be continuous where a closed form holds for every n."""
    rule, m = training.rule, training.objective.m
    if m > 1 or not isinstance(rule, AbstractRule) or not has_closed_form(rule):
        msg = (
            "smooth=True needs full-batch training (one batch) and a rule whose memory is bias-corrected, "
            f"such as ia.Adam; got m = {m} and {type(rule).__name__}"
        )
        raise ValueError(msg)
    if training.theta.dtype.itemsize < 4:
        msg = f"smooth=True needs float32 or float64 parameters, got {training.theta.dtype}: cast them"
        raise ValueError(msg)


def smooth_solution(
    training: Training,
    steps: int,
    save_every: int,
    order: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> tuple[Float[Array, "saves p"], Float[Array, " saves"]]:
    """The points at the saved times, and what the controller allowed each of its steps to be wrong by."""
    rule, theta = training.rule, training.theta
    field = modified_field(rule, closed_form(rule, training.objective), order)
    controller = recommended_controller(theta.dtype) if controller is None else controller
    times = saved_times(rule.h, steps, save_every)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t / rule.h - 1 / 2)(y)),
        diffrax.Tsit5() if solver is None else solver,
        jnp.zeros_like(rule.h),
        times[-1],
        None,
        theta,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode(),
        max_steps=2**16,
        throw=False,
    )
    solved = solution.result == diffrax.RESULTS.successful
    points = jnp.where(solved, jnp.asarray(solution.ys), jnp.full_like(theta, jnp.nan)[None])
    return points, _allowed(controller, points)


def recommended_controller(dtype: jnp.dtype) -> diffrax.AbstractStepSizeController:
    """Tolerance 1e-9, or ten roundings of a narrower dtype."""
    tolerance = max(1e-9, 10 * float(jnp.finfo(dtype).eps))
    return diffrax.PIDController(rtol=tolerance, atol=tolerance)


def _allowed(
    controller: diffrax.AbstractStepSizeController, points: Float[Array, "saves p"]
) -> Float[Array, " saves"]:
    def allowed(theta: Vector) -> Float[Array, ""]:
        rtol, atol = getattr(controller, "rtol", jnp.nan), getattr(controller, "atol", jnp.nan)
        return jnp.asarray(atol + rtol * jnp.max(jnp.abs(theta)))

    return jax.vmap(allowed)(points)
