"""`memoryless`: a discrete map without memory that stays O(h^2)-close to the optimizer.

Source: Cattaneo & Shigida 2025.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.runs import check_saves
from implicit_adam.fields.series import value
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.checked_run import checked_run
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


def memoryless(
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
) -> Trajectory:
    """Iterate the map theta <- theta - h G^(n)(theta), which depends on the present point only.

        G^(n) = F^(n) + h DF^(n)[u_0, .., u_n] + ..,        u_k = sum_{l=k}^{n-1} F^(l),

    -G^(n) is the field of `vector_field` without its half step: the update F^(n) over the history that leads
    to theta, expanded in h. The distance to `iterate` is O(h^(order+1)) over any fixed time, at one field
    evaluation a step. Arguments, result, warnings and errors are those of `flow`.
    """
    steps, save_every = check_saves(steps, save_every)
    inputs = checked_run(rule, loss, params, steps, batches, schedule, order=order, shifted=shifted)
    return warned(_memoryless(inputs, steps, save_every, order), order)


@eqx.filter_jit
def _memoryless(inputs: Inputs, steps: int, save_every: int, order: int) -> Trajectory:
    rule, theta = inputs.rule, inputs.theta
    G = exact_terms(rule, inputs.objective, order, flow=False)

    def step(n: StepNumber, place: Place) -> tuple[Place, Watched]:
        series = G(n)(place.theta)
        update = value(series, rule.h)
        watched = Watched(jnp.zeros_like(rule.h), size_of_correction(update, series[0]))
        return place.moved(-rule.h * update, lambda theta: theta), watched

    (thetas, lost), watched = record(step, at_start(theta), steps, save_every, Place.seen)
    return Trajectory(
        saved_times(rule.h, steps, save_every),
        jax.vmap(inputs.unraveled)(thetas),
        all_finite(thetas),
        watched.step_error,
        watched.validity if order > 0 else jnp.full_like(lost, jnp.nan),
        lost,
    )
