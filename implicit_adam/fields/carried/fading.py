"""One exponential memory as a state: A_(n+1) = d A_n + psi(t_n), continued to any time.

If psi is linear in t, the memory is a decaying start plus a line that lags behind psi. With ' per step and
lambda = -log d,

    A' = r psi(t - delta h) - lambda A,        r = lambda/(1-d),        delta = 1/(1-d) - 1/lambda

is exact for both. With `change` the change of psi in one step, v steps later (earlier for v < 0),

    A(t + v h) = d^v A + G psi + C change,     G = (1 - d^v)/(1-d),     C = (v - G)/(1-d).

For v = 1 this is d A + psi whatever the change: the optimizer's own step. For d = 1, a sum, G = v and
C = v(v-1)/2. The state kept is S = (1-d) A, an average, or A itself for d = 1.

A decay of zero would be infinitely fast. There the state, psi(t - h), changes as psi does, for the user to
see; no equation reads it: A(t + v h) is that of a memory that has settled, (psi + (v - 1/(1-d)) change) /
(1-d), whose derivative in d is right as well.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.rules.kernels import geometric_sum, inverse_expm1_regular, power
from implicit_adam.types import Scalar

Values = Float[Array, "*shape"]
Factor = Callable[[Scalar], Scalar]


def weight(d: Scalar) -> Scalar:
    """The weight of a gradient in the state: an average for d < 1, a sum for d = 1."""
    return jnp.where(d < 1, 1 - d, jnp.ones_like(d))


def rate(d: Scalar, S: Values, psi: Values, change: Values) -> Values:
    """The derivative S' per step."""
    fading = _rate_of_decay(d)
    growth = jnp.where(d < 1, fading, jnp.ones_like(d))
    moving = growth * (psi - _delta(fading) * change) - fading * S
    return jnp.where(d > 0, moving, change)


def ahead(d: Scalar, S: Values, psi: Values, change: Values, v: Scalar) -> Values:
    """S(t + v h)."""
    still, more = way_ahead(d, S, psi, change, v)
    return still + more


def way_ahead(d: Scalar, S: Values, psi: Values, change: Values, v: Scalar) -> tuple[Values, Values]:
    """S(t + v h) for constant psi, and what the change of psi adds to it."""
    x = _positive(d)
    G = geometric_sum(x, v)
    C = _along_a_line(x, G, v)
    still = jnp.where(d > 0, power(x, v) * S + weight(d) * G * psi, psi)
    return still, jnp.where(d > 0, weight(d) * C, _behind(d, v)) * change


def adjusted(change: Values, d: Scalar, factor: Factor | None) -> Values:
    """The change, times a factor that may depend on the decay (`bursts`)."""
    return change if factor is None else factor(d) * change


def settled(d: Scalar, psi: Values, change: Values, v: Scalar) -> Values:
    """S(t + v h) once the start is forgotten; for d = 0 the gradient of v - 1 steps later. Not for d = 1."""
    return psi + _behind(d, v) * change


def _behind(d: Scalar, v: Scalar) -> Scalar:
    return v - 1 / (1 - jnp.where(d < 1, d, jnp.zeros_like(d)))


def _along_a_line(d: Scalar, G: Scalar, v: Scalar) -> Scalar:
    """C = (v - G)/(1-d) = r v [G (1 + B(lambda v)) - delta], B(u) = 1/expm1(u) - 1/u: no cancellation."""
    fading = _rate_of_decay(d)
    r = jnp.where(d < 1, fading / weight(d), jnp.ones_like(d))
    return r * v * (G * (1 + inverse_expm1_regular(fading * v)) - _delta(fading))


def _delta(fading: Scalar) -> Scalar:
    """1/(1-d) - 1/lambda, in which the poles cancel."""
    return 1 + inverse_expm1_regular(fading)


def _rate_of_decay(d: Scalar) -> Scalar:
    return -jnp.log(_positive(d))


def _positive(d: Scalar) -> Scalar:
    return jnp.where(d > 0, d, jnp.ones_like(d))
