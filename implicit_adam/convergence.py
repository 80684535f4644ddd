"""Does the flow follow the optimizer, and to which power of h? Theorem 3.1 as a measurement.

The optimizer and the flows run in lockstep from the same start, so that sup_n ||theta(nh) - theta^(n)|| is
streamed and nothing is stored; the order is then read off the errors at several h.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.checks import (
    check_horizon,
    check_orders,
    check_shifted_order,
    check_step_counts,
    check_wide_dtype,
)
from implicit_adam.fields.select import HIGHEST_ORDER, raveled_field
from implicit_adam.flow import interval_step
from implicit_adam.iterate import optimizer_step
from implicit_adam.loops import loop
from implicit_adam.reprs import study
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.slopes import fit_tail, local_slopes
from implicit_adam.training import Training, checked_training, identified
from implicit_adam.types import Batches, Loss, Params, Scalar, StepNumber


class Convergence(NamedTuple):
    """The errors of the flows against the optimizer at K step sizes; dictionaries are keyed by the order.

    - `h`, `steps`: (K,) the step sizes horizon / steps and numbers of steps.
    - `error`: (K,) sup over n of the 2-norm of the difference; `max_norm_error`: of its max-norm.
    - `local_slope`: (K-1,) between neighbouring step sizes.
    - `slope`, `slope_stderr`: the power of h fitted to the settled tail, with its standard error.
    - `limiting_slope`: where the local slopes head as h goes to zero, by extrapolating the last two.
    - `constant`: C of error = C h^(order+1), on the same tail.
    - `asymptotic`: whether the local slopes have settled; if not, nothing is decided yet: go to smaller h.
    - `rounding_floor`: (K,) eps sqrt(steps) sup ||theta||, an upper estimate of what rounding alone adds;
      errors within ten times of it are left out of the fit.
    - `travelled`: (K,) how far the optimizer went; errors above a tenth of it are left out of the fit.
    """

    h: np.ndarray
    steps: np.ndarray
    error: dict[int, np.ndarray]
    max_norm_error: dict[int, np.ndarray]
    local_slope: dict[int, np.ndarray]
    slope: dict[int, float]
    slope_stderr: dict[int, float]
    limiting_slope: dict[int, float]
    constant: dict[int, float]
    asymptotic: dict[int, bool]
    rounding_floor: np.ndarray
    travelled: np.ndarray

    def __repr__(self) -> str:
        return study(self)


class Supremum(NamedTuple):
    """Streamed over one run: each flow's largest errors, the largest ||theta|| and ||theta - start||."""

    two_norm: tuple[Scalar, ...]
    max_norm: tuple[Scalar, ...]
    size: Scalar
    travelled: Scalar


def supremum(
    training: Training,
    steps: StepNumber,
    orders: tuple[int, ...],
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
) -> Supremum:
    """sup_{n <= steps} of the distance between the iterates and each order's flow; steps may be traced."""
    rule, objective, theta = training.rule, training.objective, training.theta
    start, step = optimizer_step(rule, objective)
    flows = [
        interval_step(raveled_field(rule, objective, order), rule.h, solver, controller) for order in orders
    ]

    def advance(n: StepNumber, carry: Any) -> Any:
        optimizer, points, sup = carry
        optimizer = step(n, optimizer)
        points = tuple(flow(n, point)[0] for flow, point in zip(flows, points, strict=True))
        differences = [point - optimizer[0] for point in points]
        here = Supremum(
            tuple(jnp.linalg.norm(difference) for difference in differences),
            tuple(jnp.max(jnp.abs(difference)) for difference in differences),
            jnp.linalg.norm(optimizer[0]),
            jnp.linalg.norm(optimizer[0] - theta),
        )
        return optimizer, points, jax.tree.map(jnp.maximum, sup, here)

    zero = jnp.zeros((), theta.dtype)
    none = Supremum((zero,) * len(orders), (zero,) * len(orders), jnp.linalg.norm(theta), zero)
    return loop(0, steps, advance, (start(theta), (theta,) * len(orders), none))[2]


_compiled_supremum = eqx.filter_jit(supremum)


def convergence(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    *,
    horizon: float,
    step_counts: Sequence[int],
    orders: Sequence[int] = (0, 1),
    batches: Batches = None,
    schedule: Any = None,
    shifted: bool = False,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Convergence:
    """Measure the order of Theorem 3.1: sup_{n <= T/h} ||theta(nh) - theta^(n)|| against h.

    - `rule`: the optimizer; its own h is replaced by horizon / steps (so that a bare optax transformation
      should have learning rate 1).
    - `loss`, `params`, `batches`, `schedule`: as in `iterate`; the schedule covers the largest step count.
    - `horizon`: the time T > 0.
    - `step_counts`: at least three increasing numbers of steps, e.g. `(50, 100, 200, 400)`.
    - `orders`: which flows; keep 0, the uncorrected flow, as contrast.
    - `shifted`, `solver`, `stepsize_controller`: as in `flow`.
    - `callback`: called as `callback(done, total)` after each step count, in units of steps.

    Needs float64 parameters: in float32 the flow and the optimizer round alike for small h, and their
    difference vanishes where the true one does not. Raises `ValueError` for that and for bad arguments.
    Compiles once. It runs on the host and is not for jit or vmap; `supremum` is.
    """
    counts = check_step_counts(step_counts)
    check_horizon(horizon)
    orders = check_orders(orders, HIGHEST_ORDER)
    check_shifted_order(max(orders), shifted=shifted)
    taking_products = max(orders) > 0
    training = checked_training(
        rule, loss, params, batches, schedule, counts[-1], shifted=shifted, products=taking_products
    )
    training = identified(training)
    check_wide_dtype(training.theta.dtype)

    suprema = []
    for count in counts:
        h = jnp.asarray(horizon / count, training.theta.dtype)
        run = training._replace(rule=training.rule.with_step_size(h))
        steps = jnp.asarray(count)
        result = _compiled_supremum(run, steps, orders, solver, stepsize_controller)
        suprema.append(jax.device_get(result))
        if callback is not None:
            callback(sum(counts[: len(suprema)]), sum(counts))
    return _study(horizon / np.asarray(counts), np.asarray(counts), orders, suprema)


def _study(h: np.ndarray, steps: np.ndarray, orders: tuple[int, ...], suprema: list[Supremum]) -> Convergence:
    floor = np.finfo(h.dtype).eps * np.sqrt(steps) * np.array([float(sup.size) for sup in suprema])
    travelled = np.array([float(sup.travelled) for sup in suprema])
    error = {q: np.array([float(sup.two_norm[i]) for sup in suprema]) for i, q in enumerate(orders)}
    max_norm = {q: np.array([float(sup.max_norm[i]) for sup in suprema]) for i, q in enumerate(orders)}
    laws = {q: fit_tail(h, error[q], floor, travelled, expected=q + 1) for q in orders}
    return Convergence(
        h=h,
        steps=steps,
        error=error,
        max_norm_error=max_norm,
        local_slope={q: local_slopes(h, error[q]) for q in orders},
        slope={q: law.slope for q, law in laws.items()},
        slope_stderr={q: law.stderr for q, law in laws.items()},
        limiting_slope={q: law.limit for q, law in laws.items()},
        constant={q: law.constant for q, law in laws.items()},
        asymptotic={q: law.settled for q, law in laws.items()},
        rounding_floor=floor,
        travelled=travelled,
    )
