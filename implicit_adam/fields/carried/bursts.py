"""Within one step of a burst, where the alternation grows by a factor mu, and its squares by M = mu^2.

A line through now and one step ago is then a bad guess of the times between: a tenfold growth would be half
done half a step ago, when the alternation was a third of what it is now. What grows is instead taken to be
exponential. v steps from now the features of the branches (mean p, alternating part q) are

    p(v) = A + E M^v,        q(v) = (a + b v) mu^v,

each through its values now and one step ago; for mu = 1 both are lines. The equations of a memory S of decay
delta (`fading`) are those of a line p + v dp. They become exact for p(v) if dp = E (1 - 1/M) is multiplied by

    f = [1 - phi(lambda + log M) / phi(lambda)] M / [(M - 1) Delta]                in S',
    g = 2 (1+s) mu^2 / [(mu+s) (mu+1)]                                             in S(1/2),
    b = 2 (1+s) mu (mu+1+s) / [(2+s) (mu+s) (mu+1)]                                in S(-1/2),
    2 mu / (mu+1)                                                                  in p(-1/2),

with s = sqrt(delta), lambda = -log(delta), phi(y) = y/(exp(y) - 1), Delta = 1/(1-delta) - 1/lambda. Only the
share of dp that is due to the alternation grows so; it is estimated by |hF+ - hF-|^2 over
|hF+ - hF-|^2 + |hF+ + hF-|^2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.rules.kernels import inverse_expm1_regular
from implicit_adam.types import Scalar, Vector

# Faster growth is not continued to earlier times.
LARGEST = 16
# For a smaller log M rounding would spoil the difference in f, which is then that of a long memory.
SMALL = 0.02


class Burst(NamedTuple):
    """What grows in a step: mu >= 1, and the share of the change of the mean features that it causes.

    - `rate`: k, the rate of d' over what a step adds to d.
    """

    mu: Scalar
    share: Scalar
    rate: Scalar

    def in_rate(self, delta: Scalar) -> Scalar:
        """f for a memory of decay delta."""
        log_M = 2 * jnp.log(self.mu.astype(delta.dtype))
        fading = -jnp.log(jnp.where(delta > 0, delta, jnp.ones_like(delta)))
        large = jnp.maximum(log_M, SMALL)
        fallen = 1 - _phi(fading + large) / _phi(fading)
        exact = -fallen / jnp.expm1(-large) / (1 + inverse_expm1_regular(fading))
        regular = inverse_expm1_regular(log_M)
        of_long_memory = -2 * regular * (1 + log_M + log_M * regular)
        return self._shared(jnp.where(log_M > SMALL, exact, of_long_memory))

    def in_after(self, delta: Scalar) -> Scalar:
        """g for a memory of decay delta, half a step later."""
        mu, s = self.mu.astype(delta.dtype), jnp.sqrt(delta)
        return self._shared(2 * (1 + s) * mu**2 / ((mu + s) * (mu + 1)))

    def in_before(self, delta: Scalar) -> Scalar:
        """b for a memory of decay delta, half a step ago."""
        mu, s = self.mu.astype(delta.dtype), jnp.sqrt(delta)
        return self._shared(2 * (1 + s) * mu * (mu + 1 + s) / ((2 + s) * (mu + s) * (mu + 1)))

    def in_present(self) -> Scalar:
        """2 mu/(mu+1), for p half a step ago."""
        return self._shared(2 * self.mu / (self.mu + 1))

    def _shared(self, factor: Scalar) -> Scalar:
        return 1 + self.share.astype(factor.dtype) * (factor - 1)


def burst(d: Vector, more: Vector, plus: Vector, minus: Vector, order: int) -> Burst:
    """A step that adds `more` to d, from the updates hF of both branches.

    The rate is log(mu)/(mu-1) if `more` is what is added now, at order 0. From order 1 on it is what is added
    half a step ago, and the rate sqrt(mu) as much.
    """
    square = jnp.sum(d**2)
    growth = jnp.sum(more * d) / jnp.where(square > 0, square, jnp.ones_like(square))
    grown = jnp.maximum(1 + growth, 1)
    mu, u = jnp.minimum(grown, LARGEST), jnp.log(grown)
    rate = _phi(u) if order == 0 else jnp.sqrt(mu) * _phi(u)
    mean, half = jnp.sum((plus + minus) ** 2), jnp.sum((plus - minus) ** 2)
    return Burst(mu, half / jnp.where(half > 0, half + mean, jnp.ones_like(half)), rate)


def half_a_step_ago(q: Any, dq: Any, mu: Scalar) -> Any:
    """q(-1/2), where dq = q(0) - q(-1)."""

    def at(q: Vector, dq: Vector) -> Vector:
        grown = mu.astype(q.dtype)
        return (q + grown * (q - dq)) / (2 * jnp.sqrt(grown))

    return jax.tree.map(at, q, dq)


def times(x: Scalar, tree: Any) -> Any:
    return jax.tree.map(lambda y: x.astype(y.dtype) * y, tree)


def _phi(y: Scalar) -> Scalar:
    """y/(exp(y) - 1), 1 at y = 0."""
    return 1 + y * inverse_expm1_regular(y)
