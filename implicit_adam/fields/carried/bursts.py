"""Within one step of a burst, where the alternation grows by a factor mu, and its squares by mu^2.

A line through now and one step ago is then a bad guess of the times between: a tenfold growth would be half
done half a step ago, when d was a third of what it is now. What grows is instead an exponential in time.
With v in steps, the features of the branches (mean p, alternation q) are taken to be

    q(v) = (A + B v) mu^v,        p(v) = A + E mu^(2v),

each through its values now and one step ago. For mu = 1 both are the line. The equations of a memory
(`fading`) are for a line, p + v dp; for a long memory (decay d near 1) p(v) has the same effect on S' if dp
is replaced by f dp, and the same on the memory half a step later with g dp:

    f = 2 (1 - log(M)/(M-1)) M/(M-1),        g = (2 mu/(mu+1))^2,        M = mu^2.

Only that share of dp is so changed which is due to the alternation, estimated by |hF+ - hF-|^2 over
|hF+ - hF-|^2 + |hF+ + hF-|^2.

If each step makes d longer by mu, then d' = log(mu) d, and half a step ago d was d/sqrt(mu) and what the step
adds to it (mu-1) d/sqrt(mu): the rate is that times k = sqrt(mu) log(mu)/(mu-1).
"""

from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.rules.kernels import inverse_expm1_regular
from implicit_adam.types import Scalar, Vector

# No more is believed of an estimate from the start of the step.
LARGEST = 16


def growth(d: Vector, more: Vector) -> Scalar:
    """mu >= 1, by how much longer d is when a step has added `more`; 1 if it is shorter."""
    square = jnp.sum(d**2)
    return jnp.clip(1 + jnp.sum(more * d) / jnp.where(square > 0, square, jnp.ones_like(square)), 1, LARGEST)


def half_a_step_ago(q: Any, dq: Any, mu: Scalar) -> Any:
    """q(-1/2), where dq = q(0) - q(-1)."""

    def at(q: Vector, dq: Vector) -> Vector:
        grown = mu.astype(q.dtype)
        return (q + grown * (q - dq)) / (2 * jnp.sqrt(grown))

    return jax.tree.map(at, q, dq)


def rate_of_growth(mu: Scalar) -> Scalar:
    """k = sqrt(mu) log(mu)/(mu-1)."""
    u = jnp.log(mu)
    return jnp.sqrt(mu) * (1 + u * inverse_expm1_regular(u))


def for_rate(mu: Scalar, share: Scalar) -> Scalar:
    """The factor of dp in the rate of a memory: 1 + share (f - 1), f = 2 (1 - log(M)/(M-1)) M/(M-1)."""
    u = 2 * jnp.log(mu)
    regular = inverse_expm1_regular(u)
    return 1 + share * (-2 * regular * (1 + u + u * regular) - 1)


def for_memory(mu: Scalar, share: Scalar) -> Scalar:
    """The factor of dp in the memory half a step later: 1 + share (g - 1), g = (2 mu/(mu+1))^2."""
    return 1 + share * ((2 * mu / (mu + 1)) ** 2 - 1)


def share_of(plus: Vector, minus: Vector) -> Scalar:
    """How much of the change of the mean features is due to the alternation, from the branches' updates."""
    mean, half = jnp.sum((plus + minus) ** 2), jnp.sum((plus - minus) ** 2)
    return half / jnp.where(half > 0, half + mean, jnp.ones_like(half))


def times(x: Scalar, tree: Any) -> Any:
    return jax.tree.map(lambda y: x.astype(y.dtype) * y, tree)
