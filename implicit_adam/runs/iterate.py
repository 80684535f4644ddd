"""`iterate`: runs the discrete optimizer itself, through optax."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.runs import check_saves
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.from_optax.rule import raveled_transformation
from implicit_adam.runs.trajectory import (
    Place,
    Trajectory,
    Watched,
    all_finite,
    at_start,
    record,
    saved_times,
)
from implicit_adam.runs.validity import warned
from implicit_adam.types import Batches, Loss, Params, StepNumber, Vector

OptimizerState = tuple[Vector, Any]


def optimizer_step(
    rule: AbstractOptimizer, objective: Objective
) -> tuple[Callable[[Vector], OptimizerState], Callable[[StepNumber, OptimizerState], OptimizerState]]:
    """`start(theta)` and `step(n, (theta, state))`: theta^(n+1) = theta^(n) - h F^(n), computed by optax."""
    start, update = optimizer_update(rule, objective)

    def step(n: StepNumber, carry: OptimizerState) -> OptimizerState:
        by, state = update(n, carry)
        return objective.stored(carry[0] + by), state

    return start, step


def optimizer_update(
    rule: AbstractOptimizer, objective: Objective
) -> tuple[Callable[[Vector], OptimizerState], Callable[[StepNumber, OptimizerState], OptimizerState]]:
    """`start(theta)` and `update(n, (theta, state))` -> (-h F^(n), the next state), computed by optax."""
    optimizer = raveled_transformation(rule.transformation(), objective.unravel)

    def start(theta: Vector) -> OptimizerState:
        return theta, optimizer.init(theta)

    def update(n: StepNumber, carry: OptimizerState) -> OptimizerState:
        theta, state = carry
        updates, state = optimizer.update(objective.step_gradient(theta, n), state, theta)
        return jnp.asarray(updates), state

    return start, update


def iterate(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    steps: int,
    *,
    batches: Batches = None,
    schedule: Any = None,
    save_every: int = 1,
) -> Trajectory:
    """Run the optimizer itself, through optax: the iterates theta^(0), .., theta^(steps).

    - `rule`: the optimizer, e.g. `ia.Adam(1e-3)`, or any optax transformation.
    - `loss`: `loss(params) -> scalar`, or `loss(params, batch) -> scalar` together with `batches`.
    - `params`: the start, a pytree of floating arrays of one dtype.
    - `steps`: how many steps.
    - `batches`, `schedule`: mini-batches (leading axis m) and the batch index of every step (default cyclic).
    - `save_every`: save one point in this many steps; it must divide `steps`.

    A run that diverges is flagged (`finite`), never raised. Raises `ValueError` for bad arguments. Compiles
    once for all values of the hyperparameters and the start.

    In bfloat16 and float16 the gradient is taken and the parameters are kept in that dtype, while the
    optimizer computes in float32; theta - h F is then rounded to the dtype. `rounding` sums what is rounded
    away, and a `RoundingWarning` says so where it outweighs the movement of the run.
    """
    steps, save_every = check_saves(steps, save_every)
    inputs = checked_inputs(rule, loss, params, batches, schedule, steps, products=False, equation=False)
    return warned(_iterate(identified(inputs), steps, save_every))


@eqx.filter_jit
def _iterate(inputs: Inputs, steps: int, save_every: int) -> Trajectory:
    rule, theta = inputs.rule, inputs.theta
    objective = inputs.objective
    start, update = optimizer_update(rule, objective)
    nothing = Watched(jnp.zeros_like(rule.h), jnp.zeros_like(rule.h))

    def step(n: StepNumber, carry: tuple[Place, Any]) -> tuple[tuple[Place, Any], Watched]:
        place, state = carry
        by, state = update(n, (place.theta, state))
        return (place.moved(by, objective.stored), state), nothing

    _, state = start(theta)
    (thetas, lost), watched = record(
        step, (at_start(theta), state), steps, save_every, lambda carry: carry[0].seen()
    )
    return Trajectory(
        saved_times(rule.h, steps, save_every),
        jax.vmap(inputs.unraveled)(thetas),
        all_finite(thetas),
        watched.step_error,
        jnp.full_like(watched.validity, jnp.nan),
        lost,
    )
