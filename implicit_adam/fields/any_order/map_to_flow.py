"""From a memoryless map to its flow, by evaluating the map at other points of its own orbit.

Let x(t) be the orbit of theta -> theta - h G(theta; h) through theta = x(0), with n frozen. Its velocity
x'(0) is the modified field f, and

    x(ch + h) - x(ch) = -h P(c),        P(c) = G(x(ch); h)

The coefficient of h^j in P is a polynomial of degree j in c, so that (Euler, Maclaurin)

    -f = P(-1/2) - P''(-1/2)/24 + ..    =  P(-1/2)                           + O(h^2)
                                        =  (8 P(-1/2) - P(0) - P(-1)) / 6    + O(h^4)
    x(-h)   = theta + h P(-1)
    x(-h/2) = theta + h [ P(-1/2)/2 - P'(-1/2)/8 ] + O(h^4),        P'(-1/2) = P(0) - P(-1) + O(h^3)

The first order evaluates the map half a step back. So does the second, which takes P' = -h F'F + .. and P'',
of order h^2, from derivatives of the update frozen at one point, without any history. The third evaluates it
at three points.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.fields.series import compose
from implicit_adam.types import Vector

Points = Float[Array, "points p"]


class Viewpoints(NamedTuple):
    """The points at which the map is evaluated.

    - `how_many`: the number of points.
    - `displacement(i, P_i)`: the i-th coefficient of P at the points -> the next coefficient of the points.
    - `result(i, P_i)`: the i-th coefficient of P at the points -> that of the result, G or -f.
    """

    how_many: int
    displacement: Callable[[int, Points], Points]
    result: Callable[[int, Points], Vector]


def viewpoints(frozen: Callable[[Vector], Vector], theta: Vector, order: int, *, flow: bool) -> Viewpoints:
    """The points for an order; `frozen` is the update F at a history of equal points."""
    if not flow:
        return HERE
    if order == 2:
        return _half_a_step_back_on_the_curve(frozen, theta)
    return HALF_A_STEP_BACK if order < 2 else NOW_HALF_BEFORE


HERE = Viewpoints(1, lambda i, P: jnp.zeros_like(P), lambda i, P: P[0])
HALF_A_STEP_BACK = Viewpoints(1, lambda i, P: P / 2, lambda i, P: P[0])


def _half_a_step_back_on_the_curve(frozen: Callable[[Vector], Vector], theta: Vector) -> Viewpoints:
    """The curve x' = -F has F(x(h)) = F - h B + h^2 C, B = F'F; its P' and P'' are -h B and 2 h^2 C."""
    F, B = compose(frozen, (theta, frozen(theta)))
    _, _, C = compose(frozen, (theta, F, B / 2))
    none = jnp.zeros_like(F)
    slope, curvature = (none, -B, none), (none, none, 2 * C)
    return Viewpoints(1, lambda i, P: P / 2 - slope[i][None] / 8, lambda i, P: P[0] - curvature[i] / 24)


def _now_half_before(_: int, P: Points) -> Points:
    now, half, before = P
    return jnp.stack([jnp.zeros_like(now), half / 2 - (now - before) / 8, before])


NOW_HALF_BEFORE = Viewpoints(3, _now_half_before, lambda i, P: (8 * P[1] - P[0] - P[2]) / 6)
