"""Carried memory: the memories of an optimizer as states of the equation, corrected only for the step.

The fields of Theorem 3.1 expand the memory in its length, so h times memory must be small against the width
sqrt(eps) over which the update turns. Here the memories are states (`fading`) and only the step is expanded.
The update of the step from t - h/2 to t + h/2 is computed from what the optimizer has at that step,

    theta' = -F + (1/24) [F(t + h) - 2 F(t) + F(t - h)],
    F = readout(A(t + h/2), theta(t - h/2), n = t/h - 1/2),

with an error of O(h^2) whatever the decays and eps are, h/(1-d) = O(1) included. The second difference makes
-F the mean velocity of a step: theta(t + h/2) - theta(t - h/2) = -h F(t). It is O(h^2) if everything changes
with t; but a bias correction, a sum or a memory that is still filling changes with n, and without the second
difference the first steps after the start would cause an error of O(h).

The change of psi in a step comes from a second gradient, one step ago: psi(t) - psi(t-h), where
theta(t-h) = theta + h F. An evaluation costs two gradients for any number of memories and no Hessian-vector
product. Order 0 neglects all changes within a step (no change of psi, no second difference,
theta(t - h/2) = theta); it costs one gradient and has an error of O(h).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.types import Scalar, Vector

# A pytree of vectors: what the optimizer remembers, and what a gradient adds to it.
Memory = Any
Features = Any


class Carrier(NamedTuple):
    """An optimizer as a system of a point and a memory, on flat vectors; times are in steps, tau = t/h.

    - `start(theta)`: the memory before the first step.
    - `step(n, theta, memory, seen)`: the optimizer's own step n; psi is seen(theta) if given.
    - `gradients(theta)`: one gradient (of each mini-batch), or what can be computed from it without the
      memory.
    - `features(tau, gradients, theta, memory, change)`: psi, all at tau; change = None means no change.
    - `arrive(tau, memory, psi, v, theta, gradients)`: psi at tau + v, where theta and the gradients are
      taken, and its change per step on the way there; memory and psi are those of tau.
    - `rate(memory, psi, change)`: the derivative of the memory, per step.
    - `ahead(memory, psi, change, v)`: the memory v steps later, with psi changing linearly.
    - `after(memory, psi, change, v)`: the same, as the readout uses it: no sign changes (`keeping_signs`).
      These three also take a factor of the change that depends on the decay of each memory (`bursts`).
    - `plus(memory, more)`: their sum, where memories that are never negative stay so.
    - `read(n, theta, psi, before, after)`: h F of step n from the point, psi, and the memories before and
      after the step.
    - `update(tau, theta, memory, psi, change, v)`: h F at tau + v by `read` (`updating`); memory and psi are
      those of tau, theta is that of tau + v - 1/2.
    - `passes`: how often psi and its change are computed in turn: once, if psi does not depend on its change.
    - `levels`: how many levels of memories there are; psi of one depends on the memories of those below.
    - `of_batch(theta, weights)`: psi of the gradient sum_b weights_b g_b; None if psi of a single mini-batch
      is not known.
    - `deviation(theta, psi, weights, share)`: sum_b weights_b (psi(g_b) - E psi) over the mini-batches; with
      `noise` psi - E psi of a normal gradient that has this share of the variance.
    - `bounded(memory, psi, more, k, least)`: `more`, raised so that memories that are never negative are at
      least `least` k steps later.
    """

    start: Callable[[Vector], Memory]
    step: Callable[..., tuple[Vector, Memory]]
    gradients: Callable[[Vector], Any]
    features: Callable[[Scalar, Any, Vector, Memory, Features | None], Features]
    arrive: Callable[[Scalar, Memory, Features, Scalar, Vector, Any], tuple[Features, Features]]
    rate: Callable[..., Memory]
    ahead: Callable[..., Memory]
    after: Callable[..., Memory]
    plus: Callable[[Memory, Memory], Memory]
    read: Callable[[Scalar, Vector, Features, Memory, Memory], Vector]
    update: Callable[[Scalar, Vector, Memory, Features, Features, Scalar], Vector]
    passes: int = 1
    levels: int = 1
    of_batch: Callable[[Vector, Float[Array, " m"]], Features] | None = None
    deviation: Callable[[Vector, Features, Float[Array, " m"], Scalar], Features] | None = None
    bounded: Callable[[Memory, Features, Features, Scalar, Memory], Features] | None = None


def features_and_change(
    carrier: Carrier, tau: Scalar, theta: Vector, memory: Memory, order: int
) -> tuple[Features, Features, Vector]:
    """psi, its change in one step, and h F."""
    now = jnp.zeros_like(tau)
    g = carrier.gradients(theta)
    psi = carrier.features(tau, g, theta, memory, None)
    change = jax.tree.map(jnp.zeros_like, psi)
    hF = carrier.update(tau, theta, memory, psi, change, now)
    if order == 0:
        return psi, change, hF
    before = theta + hF
    g_before = carrier.gradients(before)
    for i in range(carrier.passes):
        psi = carrier.features(tau, g, theta, memory, change) if i else psi
        _, change = carrier.arrive(tau, memory, psi, now - 1, before, g_before)
    return psi, change, carrier.update(tau, theta + hF / 2, memory, psi, change, now)


def carried_velocity(
    carrier: Carrier, order: int
) -> Callable[[Scalar, Vector, Memory], tuple[Vector, Memory]]:
    """The right side of the equation per step: (theta, memory) -> their derivatives in tau."""

    def velocity(tau: Scalar, theta: Vector, memory: Memory) -> tuple[Vector, Memory]:
        psi, change, hF = features_and_change(carrier, tau, theta, memory, order)
        rate = carrier.rate(memory, psi, change)
        return centred(carrier, tau, theta, memory, psi, change, hF, order), rate

    return velocity


def centred(
    carrier: Carrier,
    tau: Scalar,
    theta: Vector,
    memory: Memory,
    psi: Features,
    change: Features,
    hF: Vector,
    order: int,
) -> Vector:
    """theta' per step: -h F and, from order 1 on, what makes it the mean velocity of a step (`bent`)."""
    return -hF if order == 0 else bent(carrier, tau, theta, memory, psi, change, hF) / 24 - hF


def bent(
    carrier: Carrier,
    tau: Scalar,
    theta: Vector,
    memory: Memory,
    psi: Features,
    change: Features,
    hF: Vector,
) -> Vector:
    """h times the second difference of F from step to step, with theta and psi extrapolated linearly."""
    # A bias correction is not defined before the first step.
    middle = jnp.where(tau < 2, jnp.ones_like(tau), jnp.zeros_like(tau))

    def at(v: Scalar) -> Vector:
        return carrier.update(tau, theta + (1 / 2 - v) * hF, memory, psi, change, v)

    return at(middle + 1) - 2 * at(middle) + at(middle - 1)


def updating(ahead: Callable[..., Memory], after: Callable[..., Memory], read: Callable[..., Vector]) -> Any:
    """The `update` of a carrier: h F of the step from t + (v - 1/2) h to t + (v + 1/2) h."""

    def update(
        tau: Scalar, theta: Vector, memory: Memory, psi: Features, change: Features, v: Scalar
    ) -> Vector:
        w = v - 1 / 2
        now = on_the_line(psi, change, w)
        return read(tau + w, theta, now, ahead(memory, psi, change, w), after(memory, psi, change, v + 1 / 2))

    # It is read several times in a step, and traced once so.
    return jax.jit(update)


def on_the_line(psi: Features, change: Features, v: Scalar) -> Features:
    """psi v steps later, changing linearly."""
    return jax.tree.map(lambda x, dx: x + v.astype(x.dtype) * dx, psi, change)


def keeping_signs(still: Vector, more: Vector) -> Vector:
    """still + more, without `more` where it alone would flip the sign: no extrapolated square is negative."""
    return jnp.where(still * (still + more) < 0, still, still + more)
