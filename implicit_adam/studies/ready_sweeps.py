"""Ready-made functions for `ia.sweep`: the order of convergence, the bias, and observables of a run.

Each builder takes `build(**hyperparameters) -> rule` and a problem, and returns a function `fn(**point)` of
the hyperparameters by name, so that any of them can be swept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.bias.bias import bias
from implicit_adam.checks.optimizers import check_kind
from implicit_adam.checks.runs import check_orders
from implicit_adam.checks.studies import check_horizon, check_step_counts
from implicit_adam.fields.full_batch.closed_form import check_has_limit, closed_form_terms
from implicit_adam.fields.vector_field import HIGHEST_ORDER
from implicit_adam.inputs import checked_inputs
from implicit_adam.losses.problems import Problem
from implicit_adam.measures.lockstep import supremum
from implicit_adam.measures.observe import observe
from implicit_adam.rules.base import AbstractOptimizer, AbstractRule
from implicit_adam.types import Scalar, StepNumber
from implicit_adam.vectors import ravel

Build = Callable[..., Any]
Point = Callable[..., Any]


def order_at(
    build: Build,
    problem: Problem,
    *,
    horizon: float,
    step_counts: Sequence[int],
    orders: Sequence[int] = (0, 1),
) -> Point:
    """The convergence study at one point: distances to the optimizer and local slopes for every order q.

    `error_q` (K,) is the largest distance along the run at each step count, `local_slope_q` (K-1,), and
    `slope_q` the last local slope. It is near q + 1 in the asymptotic regime, which is not reached where
    `validity` or `remembered`, (K,) as in `convergence`, are above a tenth. The rule's own h is replaced by
    horizon / steps.
    """
    counts = jnp.asarray(check_step_counts(step_counts))
    check_horizon(horizon)
    orders = check_orders(orders, HIGHEST_ORDER)

    def at(**point: Any) -> dict[str, Any]:
        inputs = checked_inputs(build(**point), problem.loss, problem.params, problem.batches)

        def measured(steps: StepNumber) -> tuple[tuple[Scalar, ...], Scalar, Scalar]:
            h = horizon / jnp.asarray(steps, inputs.theta.dtype)
            run = inputs._replace(rule=inputs.rule.with_step_size(h))
            found = supremum(run, steps, orders)
            return found.two_norm, found.watched.validity, found.remembered

        # One after the other: vmapped, the short runs would wait for the long ones.
        errors, validity, remembered = jax.lax.map(measured, counts)
        ratio = jnp.log(counts[1:].astype(float) / counts[:-1].astype(float))
        result = {"validity": validity, "remembered": remembered}
        for q, error in zip(orders, errors, strict=True):
            slopes = jnp.log(error[:-1] / error[1:]) / ratio.astype(error.dtype)
            result |= {f"error_{q}": error, f"local_slope_{q}": slopes, f"slope_{q}": slopes[-1]}
        return result

    return at


def bias_at(build: Build, problem: Problem) -> Point:
    """Sign and size of the bias of eq. (4) at the start, in full batch, as n goes to infinity.

    D = Hess E . F is, for Adam, the gradient of the perturbed one-norm. `factor` is <bias, D> / <D, D> in
    units of h/2, the mean of the braces of (4) weighted with D^2; if positive, the norm is penalised.
    `alignment` is the cosine between bias and D, and `size` the 2-norm of the bias.
    """

    def at(**point: Any) -> dict[str, Scalar]:
        rule = build(**point)
        check_kind("the bias sweep", rule, AbstractRule)
        check_has_limit(rule)
        loss = problem.mean_loss
        inputs = checked_inputs(rule, loss, problem.params)
        theta, objective = inputs.theta, inputs.objective
        F = closed_form_terms(inputs.rule, objective, 0, flow=True)(jnp.inf)(theta)[0]
        D = objective.linearize(theta)[1](F[None])[0]
        b = ravel(bias(inputs.rule, loss, problem.params))
        along, size = jnp.vdot(b, D), jnp.linalg.norm(b)
        norm = jnp.linalg.norm(D)
        return {
            "factor": along / norm**2 / (inputs.rule.h / 2),
            "alignment": along / (norm * size),
            "size": size,
        }

    return at


def observables_at(
    build: Build,
    problem: Problem,
    names: Sequence[str],
    *,
    horizon: float,
    every: int = 1,
    records: int = 0,
) -> Point:
    """A run to time T at one point: the last, largest and mean value of each observable, and its record.

    With "distance" it also returns `validity`, which tells whether to trust that flow, see `Observed`. If
    `seed` is swept, the start is `problem.start(seed)`, otherwise the problem's own. The number of steps is
    T / h, rounded, so that h can be swept, too; pass `cost=run_length(..)` to `sweep` then.
    """
    check_horizon(horizon)

    def at(*, seed: Any = None, **point: Any) -> dict[str, Any]:
        rule: AbstractOptimizer = build(**point)
        params = problem.params
        if seed is not None:
            if problem.start is None:
                msg = f"the problem {problem.name} has one start only; leave seed out"
                raise ValueError(msg)
            params = problem.start(seed)
        steps = jnp.round(horizon / rule.h).astype(int)
        seen = observe(
            rule, problem.loss, params, steps, names, every=every, records=records, batches=problem.batches
        )
        result = {}
        for name in names:
            result |= {
                f"last_{name}": seen.last[name],
                f"largest_{name}": seen.largest[name],
                f"mean_{name}": seen.mean[name],
            }
            if records:
                result[f"record_{name}"] = seen.record[name]
        if "distance" in names:
            # Tells whether the flow of order 1, to which the distance is measured, can be trusted.
            result["validity"] = seen.validity
        return result

    return at


def run_length(default_h: float) -> Callable[..., float]:
    """The `cost` of a run for `sweep`: its relative length 1 / h."""

    def cost(*, h: float = default_h, **_: Any) -> float:
        return 1 / float(h)

    return cost
