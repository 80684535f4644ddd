"""The modified equation to any order, for any optimizer: the history as a fixed point, as a series in h.

Seen from step n at the point theta, the history is a fixed point,

    theta_k = theta + h sum_{l=k}^{n-1} F^(l)(theta_0, .., theta_l),        k = 0 .. n

Start from the constant history and substitute: the optimizer is run again over it, with Taylor coefficients in
h in place of numbers, and every run gains one power of h. The map without memory that results,
theta -> theta - h G^(n)(theta; h), becomes a flow by looking at it from three points of its own orbit. Let x(t)
be the orbit through theta = x(0), with n frozen: x(ch + h) - x(ch) = -h P(c), P(c) = G^(n)(x(ch); h). The
coefficient of h^j in P is a polynomial of degree j in c, so that (Euler, Maclaurin)

    -f = -x'(0) = P(-1/2) - P''(-1/2)/24 + ..       =  P(-1/2)                            + O(h^2)
                                                    =  (8 P(-1/2) - P(0) - P(-1)) / 6     + O(h^4)
    x(-h) = theta + h P(-1),        x(-h/2) = theta + h [ P(-1/2)/2 - (P(0) - P(-1))/8 ]  + O(h^4)

The half step of the first order is the middle one of these points. To order q the optimizer is run over the
history q + 1 times, from up to three points at once, in memory for O(q) vectors whatever n is. The gradients of
a run to order i cost its length times a jet of order i; the first run, frozen at theta, needs m gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.fields.expansion import Terms
from implicit_adam.fields.replay import Replay
from implicit_adam.fields.series import Series, compose
from implicit_adam.objective import Objective
from implicit_adam.types import StepNumber, Vector

Points = Float[Array, "points p"]


class Orbit(NamedTuple):
    """From which points of its orbit the map is looked at.

    - `count`: how many.
    - `displacement`: one coefficient of P at the points -> the next coefficient of the points themselves.
    - `result`: one coefficient of P at the points -> the same one of what is wanted, of G or of -f.
    """

    count: int
    displacement: Callable[[Points], Points]
    result: Callable[[Points], Vector]


MAP = Orbit(1, jnp.zeros_like, lambda P: P[0])
FLOW_TO_FIRST = Orbit(1, lambda P: P / 2, lambda P: P[0])


def _now_half_before(P: Points) -> Points:
    now, half, before = P
    return jnp.stack([jnp.zeros_like(now), half / 2 - (now - before) / 8, before])


FLOW_TO_THIRD = Orbit(3, _now_half_before, lambda P: (8 * P[1] - P[0] - P[2]) / 6)


def history_terms(
    replay: Replay, objective: Objective, order: int, *, flow: bool, added: Terms | None = None
) -> Terms:
    """The coefficients of -f^(n), or of G^(n), up to the order (at most 3).

    With `added`, n -> theta -> (K_1, K_2, ..), those of the optimizer whose every update carries
    h K_1^(n)(theta^(n)) + h^2 K_2^(n)(theta^(n)) + .. more.
    """
    orbit = MAP if not flow else FLOW_TO_FIRST if order < 2 else FLOW_TO_THIRD

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        def terms(theta: Vector) -> Series:
            def run(points: Series, totals: Series) -> tuple[Series, Series]:
                return _run(replay, objective, n, (theta, *points), totals, added)

            points, totals, P = (), (), ()
            for _ in range(order + 1):
                P, totals = jax.vmap(run, axis_size=orbit.count)(points, totals)
                points = (*points, orbit.displacement(P[-1]))
            return tuple(orbit.result(P_i) for P_i in P)

        return terms

    return at


def _run(
    replay: Replay,
    objective: Objective,
    n: StepNumber,
    point: Series,
    totals: Series,
    added: Terms | None = None,
) -> tuple[Series, Series]:
    """Run again over the history that ends at the point: the series of F^(n), and of sum_{l<n} F^(l).

    `totals` is the latter from the run before, to one order less, whose steps come out the same again: the
    displacement of step k is h times its rest, the total without the steps before k.
    """
    first = replay.first(n)
    gradient_of_step = _frozen(objective, point[0]) if len(point) == 1 else objective.gradient_of_step

    def seen(rest: Series) -> Series:
        return (point[0], *(x + r for x, r in zip(point[1:], rest, strict=True)))

    def step(k: StepNumber, state: Any, still: Any, rest: Series) -> tuple[Series, Series, Any]:
        gradient = gradient_of_step(k)

        def live(x: Any) -> Any:
            state, theta = x
            F, state = replay.step(k, eqx.combine(state, still), gradient(theta), theta)
            return F, state

        theta = seen(rest)
        x = tuple(zip(state, theta, strict=True))
        _, still_next = eqx.partition(live(x[0])[1], eqx.is_inexact_array)
        results = compose(lambda x: (live(x)[0], eqx.filter(live(x)[1], eqx.is_inexact_array)), x)
        F = tuple(F_i for F_i, _ in results)
        if added is not None and len(theta) > 1:
            F = _with_added(F, compose(added(k), theta[:-1]))
        return F, tuple(state for _, state in results), still_next

    def advance(k: StepNumber, carry: Any) -> Any:
        state, still, before = carry
        rest = tuple(total - b for total, b in zip(totals, before[:-1], strict=True))
        F, state, still = step(k, state, still, rest)
        return state, still, tuple(b + F_i for b, F_i in zip(before, F, strict=True))

    def begin(theta: Vector) -> Any:
        return eqx.filter(replay.start(first, theta), eqx.is_inexact_array)

    state = compose(begin, seen(totals))
    _, still = eqx.partition(replay.start(first, point[0]), eqx.is_inexact_array)
    nothing = tuple(jnp.zeros_like(point[0]) for _ in point)
    state, still, totals_next = jax.lax.fori_loop(first, n, advance, (state, still, nothing))
    at_the_end = tuple(jnp.zeros_like(total) for total in totals)
    return step(n, state, still, at_the_end)[0], totals_next


def _with_added(F: Series, K: Series) -> Series:
    """F + h K_1 + h^2 K_2 + .., each K_a given by its own series: K[j][a-1] is the coefficient of h^j in K_a."""
    return tuple(
        F_i + sum(K[i - a][a - 1] for a in range(1, min(i, len(K[0])) + 1)) if i else F_i
        for i, F_i in enumerate(F)
    )


def _frozen(objective: Objective, theta: Vector) -> Callable[[StepNumber], Callable[[Vector], Vector]]:
    """The first run stays at theta, where each mini-batch has one gradient."""
    G = objective.gradients(theta)
    return lambda k: lambda _: objective.of_step(G, k)
