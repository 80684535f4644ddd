"""The noise of mini-batches in carried memory: one run over random mini-batches instead of their mean.

The equation of the mean run remembers E psi, the mean over the mini-batches b. A run remembers psi(g_b) of a
random one each step; the mean of these over the k steps from tau on is

    E psi + sum_b [W_b(tau + k) - W_b(tau)] (psi(g_b) - E psi) / (k sqrt(m))

with m independent Brownian paths W_b of unit variance a step: a normal variable of the right mean and
covariance. If every epoch of P steps goes through all of the data, the sum over an epoch has no variance: a
bridge, s [W(t) - the line through W at the epoch's ends], s^2 = P/(P-1), has that of draws without
replacement, j (P-j)/(P-1) after j steps.

For another batch size, r of the mini-batches together and cut anew every epoch, with

    P = m/r = 1 + noise (m-1),          noise = (m-r) / (r (m-1)),

it is the gradients that are normal and have no variance over an epoch, and what is added to E psi is

    psi(g + delta) - psi(g) - f (E psi - psi(g)),     delta = sqrt(noise) sum_b [..] (g_b - g) / (k sqrt(m)),

f the share that delta has of the variance of a step. For squares its mean is zero, and its sum over an epoch
does vary. A large, rare gradient is no normal variable.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.fields.carried.carrier import Carrier, Features, Memory
from implicit_adam.objective import Objective
from implicit_adam.types import Scalar, StepNumber, Vector


class Noise(NamedTuple):
    """What one run over random mini-batches sees beside the mean run.

    - `of_step(n, theta)`: psi of the mini-batch of step n. At first memory is as short as a step, and what
      Adam does with one gradient depends on more than its mean and variance.
    - `of_leap(theta, memory, psi, tau, k)`: what is added to E psi in the mean over the k steps from tau on.
    """

    of_step: Callable[[StepNumber, Vector], Features]
    of_leap: Callable[[Vector, Memory, Features, Scalar, Scalar], Features]


# Below this part of a step a path is interpolated.
FINEST = 0.25


def sampled_run(carrier: Carrier, objective: Objective, steps: int, key: Any, *, replacement: bool) -> Noise:
    """Of a run of so many steps; the key chooses its mini-batches."""
    of_batch: Any = carrier.of_batch
    deviation: Any = carrier.deviation
    m = objective.m

    def of_step(n: StepNumber, theta: Vector) -> Features:
        return of_batch(theta, _batch_of_step(objective, n, key, theta.dtype, replacement=replacement))

    def of_leap(theta: Vector, _memory: Memory, psi: Features, tau: Scalar, k: Scalar) -> Features:
        # In steps, whatever h is.
        tau, k = jax.lax.stop_gradient((tau, k))
        increment, variance = _increments(objective, steps, key, theta.dtype, replacement=replacement)
        weights = increment(tau, tau + k) / (k * m**0.5)
        return deviation(theta, psi, weights, variance(tau, tau + k) / k**2)

    return Noise(of_step, of_leap)


def remembering(carrier: Carrier, noise: Noise, start: int, theta: Vector, memory: Memory) -> Noise:
    """Of what has no sign no less than is left of the first steps: a normal variable knows no bound."""
    bounded: Any = carrier.bounded
    psi = carrier.features(jnp.asarray(start, theta.dtype), carrier.gradients(theta), theta, memory, None)
    nothing = jax.tree.map(jnp.zeros_like, psi)

    def of_leap(theta: Vector, now: Memory, psi: Features, tau: Scalar, k: Scalar) -> Features:
        left = carrier.ahead(memory, nothing, nothing, tau + k - start)
        return bounded(now, psi, noise.of_leap(theta, now, psi, tau, k), k, left)

    return noise._replace(of_leap=of_leap)


def _noise_and_epoch(objective: Objective, dtype: Any, *, replacement: bool) -> tuple[Scalar, Scalar]:
    """Of the variance of the gradients how many times there is, and P."""
    noise = jnp.ones((), dtype) if objective.noise is None else objective.noise.astype(dtype)
    return noise, jnp.ones_like(noise) if replacement else 1 + noise * (objective.m - 1)


def _batch_of_step(
    objective: Objective, n: StepNumber, key: Any, dtype: Any, *, replacement: bool
) -> Float[Array, " m"]:
    """The weights of the mini-batches, r of them together, in step n.

    r need not be whole: what an epoch's last step lacks it takes from the next epoch's order.
    """
    m = objective.m
    noise, P = _noise_and_epoch(objective, dtype, replacement=replacement)
    if replacement:
        # Drawn anew in every step: r = 1/noise of them, and no more than there are.
        r = jnp.minimum(1 / noise, jnp.full_like(noise, m))
        begin, epoch = jnp.zeros((), dtype), jnp.asarray(n)
    else:
        r = m / P
        seen = jnp.asarray(n, dtype) * r
        epoch = jnp.floor(seen / m)
        begin = seen - epoch * m

    def of_epoch(later: int) -> Float[Array, " m"]:
        order = jax.random.permutation(jax.random.fold_in(key, (epoch + later).astype(jnp.uint32)), m)
        place = later * m + jnp.argsort(order).astype(dtype)
        return jnp.clip(jnp.minimum(place + 1, begin + r) - jnp.maximum(place, begin), 0, 1)

    return (of_epoch(0) + of_epoch(1)) / r


def _increments(
    objective: Objective, steps: int, key: Any, dtype: Any, *, replacement: bool
) -> tuple[Callable[[Scalar, Scalar], Float[Array, " m"]], Callable[[Scalar, Scalar], Scalar]]:
    """What the weights of the mini-batches gain from tau_0 to tau_1 over their mean, but for the noise; and
    the variance of that.
    """
    m = objective.m
    _, P = _noise_and_epoch(objective, dtype, replacement=replacement)
    # To the end of the epoch that the last step is in.
    last = steps + (jnp.zeros_like(P) if replacement else jnp.maximum(P, m))
    path = diffrax.VirtualBrownianTree(
        jnp.zeros_like(last), last, FINEST, jax.ShapeDtypeStruct((m,), dtype), key
    )

    def W(tau: Scalar) -> Float[Array, " m"]:
        return jnp.asarray(path.evaluate(jnp.zeros_like(tau), jnp.clip(tau, jnp.zeros_like(tau), last)))

    if replacement:
        return lambda begin, end: W(end) - W(begin), lambda begin, end: end - begin

    # An epoch of one step has no noise.
    several = P > 1
    square = jnp.where(several, P / jnp.where(several, P - 1, P), jnp.zeros_like(P))

    def bridge(tau: Scalar) -> Float[Array, " m"]:
        begin = P * jnp.floor(tau / P)
        there, back = W(begin + P), W(begin)
        return W(tau) - back - (tau - begin) / P * (there - back)

    def within(u: Scalar) -> Scalar:
        return u * (1 - u / P)

    def variance(begin: Scalar, end: Scalar) -> Scalar:
        same = jnp.floor(begin / P) == jnp.floor(end / P)
        apart = within(begin % P) + within(end % P)
        return square * jnp.where(same, within(end - begin), apart)

    return lambda begin, end: jnp.sqrt(square) * (bridge(end) - bridge(begin)), variance
