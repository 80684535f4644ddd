"""The modified equation to any order, for any optimizer: the history as a fixed point, as a series in h.

Seen from step n at the point theta, the history is a fixed point,

    theta_k = theta + h sum_{l=k}^{n-1} F^(l)(theta_0, .., theta_l),        k = 0 .. n

Start from the constant history and substitute: the optimizer is re-run over it, with Taylor coefficients in h
in place of numbers, and every run gains one power of h. The result is a memoryless map,
theta -> theta - h G^(n)(theta; h). Evaluated at other points of its own orbit, it becomes a flow
(`map_to_flow`).

To order q the optimizer is run over the history q + 1 times, in memory for O(q) vectors whatever n is. A run
to order i costs one jet of order i of the gradient for each step that is still remembered; the first run,
frozen at theta, needs m gradients.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.fields.any_order.map_to_flow import viewpoints
from implicit_adam.fields.any_order.replay import Replay, replay
from implicit_adam.fields.series import Series, compose
from implicit_adam.fields.terms import Terms
from implicit_adam.loops import loop
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.types import StepNumber, Vector


def history_terms(
    optimizer: AbstractOptimizer, objective: Objective, order: int, *, flow: bool, added: Terms | None = None
) -> Terms:
    """The terms for any optimizer and any number of losses, up to order 3.

    With `added`, n -> theta -> (K_1, K_2, ..), they are those of the optimizer with
    h K_1^(n)(theta^(n)) + h^2 K_2^(n)(theta^(n)) + .. added to every update.
    """
    again = replay(optimizer, objective)

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        steps = again.first(n, order), n

        def frozen(theta: Vector) -> Vector:
            return _run(again, objective, steps, (theta,), ())[0][0]

        def terms(theta: Vector) -> Series:
            def run(points: Series, totals: Series) -> tuple[Series, Series]:
                return _run(again, objective, steps, (theta, *points), totals, added)

            looking = viewpoints(frozen, theta, order, flow=flow)
            points, totals, P = (), (), ()
            for i in range(order + 1):
                P, totals = jax.vmap(run, axis_size=looking.how_many)(points, totals)
                points = (*points, looking.displacement(i, P[i]))
            return tuple(looking.result(i, P_i) for i, P_i in enumerate(P))

        return terms

    return at


def _run(
    replay: Replay,
    objective: Objective,
    steps: tuple[StepNumber, StepNumber],
    point: Series,
    totals: Series,
    added: Terms | None = None,
) -> tuple[Series, Series]:
    """Re-run over the history that ends at the point: the series of F^(n), and of sum_{l<n} F^(l).

    `totals` is the second series from the previous run, to one order less, which this run repeats. The
    displacement of step k is h times the total without the steps before k.
    """
    first, n = steps
    gradient_of_step = _frozen(objective, point[0]) if len(point) == 1 else objective.gradient_of_step

    def seen_before(before: Series) -> Series:
        rest = (total - b for total, b in zip(totals, before, strict=False))
        return (point[0], *(x + r for x, r in zip(point[1:], rest, strict=True)))

    def advance(k: StepNumber, carry: Any) -> Any:
        moving, still, before, F = carry
        before = tuple(b + F_i for b, F_i in zip(before, F, strict=True))
        theta, gradient = seen_before(before), gradient_of_step(k)

        def step(x: Any) -> tuple[Vector, Any]:
            moving, theta = x
            return replay.step(k, eqx.combine(moving, still), gradient(theta), theta)

        def moved(x: Any) -> tuple[Vector, Any]:
            F, state = step(x)
            return F, eqx.filter(state, eqx.is_inexact_array)

        still_next = eqx.filter(step((moving[0], theta[0]))[1], eqx.is_inexact_array, inverse=True)
        results = compose(moved, tuple(zip(moving, theta, strict=True)))
        F = tuple(F_i for F_i, _ in results)
        if added is not None and len(theta) > 1:
            F = _with_added(F, compose(added(k), theta[:-1]))
        return tuple(moving for _, moving in results), still_next, before, F

    def begun(theta: Vector) -> Any:
        return eqx.filter(replay.start(first, theta), eqx.is_inexact_array)

    nothing = tuple(jnp.zeros_like(point[0]) for _ in point)
    still = eqx.filter(replay.start(first, point[0]), eqx.is_inexact_array, inverse=True)
    start = (compose(begun, seen_before(nothing)), still, nothing, nothing)
    _, _, before, F = loop(first, n + 1, advance, start)
    return F, before


def _with_added(F: Series, K: Series) -> Series:
    """F + h K_1 + h^2 K_2 + .., where each K_a is a series: K[j][a-1] is the coefficient of h^j in K_a."""
    count = len(K[0])
    return tuple(
        sum((K[i - a][a - 1] for a in range(1, min(i, count) + 1)), start=F_i) for i, F_i in enumerate(F)
    )


def _frozen(objective: Objective, theta: Vector) -> Callable[[StepNumber], Callable[[Vector], Vector]]:
    """The gradients of the first run, which stays at theta: one for each mini-batch."""
    G = objective.gradients(theta)
    return lambda k: lambda _: objective.of_step(G, k)
