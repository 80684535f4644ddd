"""The optimizer without memory: a discrete map that stays O(h^2)-close to it (Cattaneo & Shigida 2025)."""

from typing import Any

import equinox as eqx
import jax
import optax

from implicit_adam.checks import check_order, check_saves
from implicit_adam.fields.expansion import Expansions
from implicit_adam.fields.select import HIGHEST_ORDER, exact_expansions
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.training import Training, checked_training
from implicit_adam.trajectory import Trajectory, all_finite, record, saved_times
from implicit_adam.types import Batches, Field, Loss, Params, StepNumber, Vector, Velocity


def memoryless_update(optimizer: AbstractOptimizer, expansions: Expansions, order: int) -> Field:
    """G^(n)(theta) = F^(n) at order 0, and F^(n) + h DF^(n)[u] at order 1, u_k = sum_{l=k}^{n-1} F^(l)."""

    def at(n: StepNumber) -> Velocity:
        expansion = expansions(n)

        def corrected(theta: Vector) -> Vector:
            F, DF = expansion.derivative(theta, 0.0)
            return F + optimizer.h * DF

        return (expansion.update, corrected)[order]

    return at


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
    """Iterate theta <- theta - h G^(n)(theta), the map that sees only the present point.

        G^(n) = F^(n) + h DF^(n)[u_0, .., u_n],        u_k = sum_{l=k}^{n-1} F^(l),

    the field of `vector_field` without its half step. Its distance to `iterate` is O(h^(order+1)) over any
    fixed time, at one field evaluation a step. Arguments, result and errors as in `flow`.
    """
    check_order(order, HIGHEST_ORDER)
    steps, save_every = check_saves(steps, save_every)
    training = checked_training(rule, loss, params, batches, schedule, steps, shifted=shifted)
    return _memoryless(training, steps, save_every, order)


@eqx.filter_jit
def _memoryless(training: Training, steps: int, save_every: int, order: int) -> Trajectory:
    rule, theta = training.rule, training.theta
    G = memoryless_update(rule, exact_expansions(rule, training.objective), order)
    thetas, no_error = record(
        lambda n, theta: (theta - rule.h * G(n)(theta), 0 * rule.h), theta, steps, save_every, theta.dtype
    )
    saved = jax.vmap(training.unraveled)(thetas)
    return Trajectory(saved_times(rule.h, steps, save_every), saved, all_finite(thetas), no_error)
