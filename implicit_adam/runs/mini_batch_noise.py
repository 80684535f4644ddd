"""Mini-batch noise in carried memory: simulates one run over random mini-batches instead of the mean run.

The equation of the mean run remembers E psi, the mean over the mini-batches b. A single run remembers
psi(g_b) of a random mini-batch at each step. The mean of these over the k steps from tau on is modelled as

    E psi + sum_b [W_b(tau + k) - W_b(tau)] (psi(g_b) - E psi) / (k sqrt(m))

with m independent Brownian paths W_b of unit variance per step: a normal variable with the right mean and
covariance. If every epoch of P steps goes through all of the data, the sum over an epoch has no variance.
W is then replaced by a Brownian bridge, s [W(t) - the line through W at the epoch's ends], s^2 = P/(P-1),
which has the variance of draws without replacement, j (P-j)/(P-1) after j steps.

For another batch size, with r of the mini-batches merged into one and drawn anew every epoch,

    P = m/r = 1 + noise (m-1),          noise = (m-r) / (r (m-1)),

the gradients are the normal variables whose sum over an epoch has no variance, and E psi gets the addition

    psi(g + delta) - psi(g) - f (E psi - psi(g)),     delta = sqrt(noise) sum_b [..] (g_b - g) / (k sqrt(m)),

where f is the variance of delta relative to that of one step. For squared gradients this addition has mean
zero, and its sum over an epoch does vary. A large, rare gradient is not well described by a normal variable.
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
    """The noise that one run over random mini-batches sees, compared with the mean run.

    - `of_step(n, theta)`: psi of the mini-batch of step n, for the first steps. There the memory is only a
      step long, and Adam's update depends on more than the mean and variance of the gradient.
    - `of_leap(theta, memory, psi, tau, k)`: the addition to E psi, averaged over the k steps from tau on.
    """

    of_step: Callable[[StepNumber, Vector], Features]
    of_leap: Callable[[Vector, Memory, Features, Scalar, Scalar], Features]


# Brownian paths are interpolated below this fraction of a step.
FINEST = 0.25


def sampled_run(carrier: Carrier, objective: Objective, steps: int, key: Any, *, replacement: bool) -> Noise:
    """The noise of one run of `steps` steps; the key chooses its mini-batches."""
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
    """The noise, bounded where a memory has no sign (g^2): it may not fall below what is left of the start.

    A normal variable alone could make the memory of a square too small, or negative.
    """
    bounded: Any = carrier.bounded
    psi = carrier.features(jnp.asarray(start, theta.dtype), carrier.gradients(theta), theta, memory, None)
    nothing = jax.tree.map(jnp.zeros_like, psi)

    def of_leap(theta: Vector, now: Memory, psi: Features, tau: Scalar, k: Scalar) -> Features:
        left = carrier.ahead(memory, nothing, nothing, tau + k - start)
        return bounded(now, psi, noise.of_leap(theta, now, psi, tau, k), k, left)

    return noise._replace(of_leap=of_leap)


def _noise_and_epoch(objective: Objective, dtype: Any, *, replacement: bool) -> tuple[Scalar, Scalar]:
    """`noise`, the factor on the variance of the gradients (1 by default), and P, the steps per epoch."""
    noise = jnp.ones((), dtype) if objective.noise is None else objective.noise.astype(dtype)
    return noise, jnp.ones_like(noise) if replacement else 1 + noise * (objective.m - 1)


def _batch_of_step(
    objective: Objective, n: StepNumber, key: Any, dtype: Any, *, replacement: bool
) -> Float[Array, " m"]:
    """The weight of each mini-batch in step n, which merges r of them.

    r need not be an integer: the last step of an epoch takes what it lacks from the order of the next epoch.
    """
    m = objective.m
    noise, P = _noise_and_epoch(objective, dtype, replacement=replacement)
    if replacement:
        # Drawn anew in every step: r = 1/noise mini-batches, but at most all m.
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
    """`increment(tau_0, tau_1)`: W_b(tau_1) - W_b(tau_0) for every b, or of the bridge; and its variance.

    Both are without the factor `noise`.
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
