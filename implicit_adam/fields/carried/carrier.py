"""Carried memory: the memories of an optimizer as states of the equation, corrected only for the step.

The fields of Theorem 3.1 expand the memory in its length, so that h times memory must be small against the
width sqrt(eps) over which the update turns. Here the memories are states (`fading`) and only the step is
expanded. The update of the step from t - h/2 to t + h/2 is read from what the optimizer has at that step,

    theta' = -F + (1/24) [F(t + h) - 2 F(t) + F(t - h)],
    F = readout(A(t + h/2), theta(t - h/2), n = t/h - 1/2),

which leaves an error of O(h^2) whatever the decays and eps are, h/(1-d) = O(1) included. The second
difference makes the velocity F in the mean over a step, theta(t + h/2) - theta(t - h/2) = -h F(t). Where all
changes with t it is of O(h^2); but a bias correction, a sum or a memory that still fills changes with n, and
without it the first steps after the start would leave O(h).

How psi changes in a step comes from a second gradient, one step ago: psi(t) - psi(t-h), with theta(t-h) =
theta + h F. An evaluation costs two gradients for any number of memories and no Hessian product. At order 0
all that changes within a step is left out (no change of psi, no second difference, theta(t - h/2) = theta),
at one gradient and with an error of O(h).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.fields.carried.fading import ahead, rate, way_ahead, weight
from implicit_adam.fields.carried.over_batches import mean_over_batches, weighted_sum, with_noise
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.feature_sums import FeatureSums, read
from implicit_adam.rules.hyperparameters import made_up
from implicit_adam.rules.kernels import Kernel
from implicit_adam.types import Scalar, StepNumber, Vector

# Gradients to try features on.
TRIED = (0.0, 1e-4, -0.3, 1.0, -1e3)

# A pytree of vectors: what the optimizer remembers, and what a gradient adds to it.
Memory = Any
Features = Any


class Carrier(NamedTuple):
    """An optimizer as a system of a point and a memory, on flat vectors; times are in steps, tau = t/h.

    - `start(theta)`: the memory before the first step.
    - `step(n, theta, memory, seen)`: the optimizer's own step n, of seen(theta) in place of psi, if given.
    - `gradients(theta)`: one gradient (of each mini-batch), as far as it needs no memory.
    - `features(tau, gradients, theta, memory, change)`: psi, all at tau; change = None is none.
    - `arrive(tau, memory, psi, v, theta, gradients)`: psi at tau + v, where theta and the gradients are, and
      its change a step on the way there; memory and psi are those of tau.
    - `rate(memory, psi, change)`: the derivative of the memory.
    - `ahead(memory, psi, change, v)`: the memory v steps later, psi changing on a line.
    - `after(memory, psi, change, v)`: the same to be read from, `keeping_signs`.
    - `plus(memory, more)`: their sum, where no memory of what has no sign gets one.
    - `read(n, theta, psi, before, after)`: h F of step n from what it sees: the point, psi, and the memories
      before and after it.
    - `update(tau, theta, memory, psi, change, v)`: h F at tau + v, what `read` says (`updating`); memory and
      psi are those of tau, theta is that of tau + v - 1/2.
    - `passes`: how often psi and its change need each other: once, where psi does not depend on its change.
    - `levels`: how many levels of memories there are, psi of one depending on the memories of those below.
    - `of_batch(theta, weights)`: psi of the gradient sum_b weights_b g_b; None where psi is not known for a
      mini-batch by itself.
    - `deviation(theta, weights)`: sum_b weights_b (psi(g_b) - E psi) over the mini-batches, for `noise` times
      their variance.
    - `bounded(memory, psi, more, k, least)`: more, raised where what has no sign would be remembered, k steps
      later, as less than that.
    """

    start: Callable[[Vector], Memory]
    step: Callable[..., tuple[Vector, Memory]]
    gradients: Callable[[Vector], Any]
    features: Callable[[Scalar, Any, Vector, Memory, Features | None], Features]
    arrive: Callable[[Scalar, Memory, Features, Scalar, Vector, Any], tuple[Features, Features]]
    rate: Callable[[Memory, Features, Features], Memory]
    ahead: Callable[[Memory, Features, Features, Scalar], Memory]
    after: Callable[[Memory, Features, Features, Scalar], Memory]
    plus: Callable[[Memory, Memory], Memory]
    read: Callable[[Scalar, Vector, Features, Memory, Memory], Vector]
    update: Callable[[Scalar, Vector, Memory, Features, Features, Scalar], Vector]
    passes: int = 1
    levels: int = 1
    of_batch: Callable[[Vector, Float[Array, " m"]], Features] | None = None
    deviation: Callable[[Vector, Float[Array, " m"]], Features] | None = None
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
    """The right side of the equation, per step."""

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
    """theta' per step: -h F and, from order 1 on, what makes it the mean velocity of a step."""
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
    """h times the second difference of F from step to step, theta and psi going on along their lines."""
    # A bias correction is not known before the first step.
    middle = jnp.where(tau < 2, jnp.ones_like(tau), jnp.zeros_like(tau))

    def at(v: Scalar) -> Vector:
        return carrier.update(tau, theta + (1 / 2 - v) * hF, memory, psi, change, v)

    return at(middle + 1) - 2 * at(middle) + at(middle - 1)


def updating(ahead: Callable[..., Memory], after: Callable[..., Memory], read: Callable[..., Vector]) -> Any:
    """`update`: what the step from t + (v - 1/2) h to t + (v + 1/2) h reads."""

    def update(
        tau: Scalar, theta: Vector, memory: Memory, psi: Features, change: Features, v: Scalar
    ) -> Vector:
        w = v - 1 / 2
        now = on_the_line(psi, change, w)
        return read(tau + w, theta, now, ahead(memory, psi, change, w), after(memory, psi, change, v + 1 / 2))

    return update


def on_the_line(psi: Features, change: Features, v: Scalar) -> Features:
    """psi v steps later."""
    return jax.tree.map(lambda x, dx: x + v.astype(x.dtype) * dx, psi, change)


def carried_rule(rule: AbstractRule, objective: Objective) -> Carrier:
    """Each exponential of each kernel is a state; the present gradient is none (None in the memory).

    States are averages without bias correction, which belongs to the kernel's scale at n = tau - 1/2. With
    mini-batches a random one adds its features' mean: the equation of the mean over random orders.
    """
    deltas = which_are_deltas(rule)

    def start(theta: Vector) -> Memory:
        return tuple(tuple(None if delta else jnp.zeros_like(theta) for delta in row) for row in deltas)

    def gradients(theta: Vector) -> Any:
        if objective.noise is None:
            return mean_over_batches(rule.features, theta, objective)
        psi, g = mean_over_batches(lambda g: (rule.features(g), g), theta, objective)
        return with_noise(rule.features(g), psi, objective.noise)

    def arrive(_tau: Any, _memory: Any, psi: Features, v: Scalar, _theta: Any, there: Features) -> Any:
        return there, jax.tree.map(lambda a, b: (b - a) / v, psi, there)

    def states(memory: Memory, psi: Features, change: Features, f: Callable[..., Vector]) -> Memory:
        # Decays do not depend on the step number: that is in a rule's contract.
        return _each(
            lambda d, S, *psi: None if S is None else f(d, S, *psi), rule.kernels(0), memory, psi, change
        )

    def ahead_by(memory: Memory, psi: Features, change: Features, v: Scalar) -> Memory:
        return states(memory, psi, change, lambda d, S, psi, change: ahead(d, S, psi, change, v))

    def after(memory: Memory, psi: Features, change: Features, v: Scalar) -> Memory:
        return states(
            memory, psi, change, lambda d, S, psi, change: keeping_signs(*way_ahead(d, S, psi, change, v))
        )

    def plus(memory: Memory, more: Memory) -> Memory:
        return tuple(
            tuple(
                None if S is None else keeping_signs(S, dS) if whole else S + dS
                for S, dS in zip(*rows, strict=True)
            )
            for whole, *rows in zip(signless(rule), memory, more, strict=True)
        )

    def readout(n: Scalar, theta: Vector, psi: Features, _before: Memory, after: Memory) -> Vector:
        kernels = rule.kernels(n)
        return rule.h * rule.readout_between_steps(read(kernels, held(kernels, after, psi)), theta, n)

    def step(n: StepNumber, theta: Vector, memory: Memory, seen: Any = None) -> tuple[Vector, Memory]:
        psi = gradients(theta) if seen is None else seen(theta)
        kernels = rule.kernels(n)
        memory = _each(lambda d, S, psi: None if S is None else d * S + weight(d) * psi, kernels, memory, psi)
        return theta - rule.h * rule.readout(read(kernels, held(kernels, memory, psi)), theta, n), memory

    def of_batch(theta: Vector, weights: Float[Array, " m"]) -> Features:
        return rule.features(weighted_sum(lambda g: g, weights, theta, objective))

    def deviation(theta: Vector, weights: Float[Array, " m"]) -> Features:
        centred = weights - jnp.mean(weights)
        if objective.noise is None:
            return weighted_sum(rule.features, centred, theta, objective)
        total, dg = weighted_sum(lambda g: (rule.features(g), g), centred, theta, objective)
        linear = jax.jvp(rule.features, (mean_over_batches(lambda g: g, theta, objective),), (dg,))[1]
        # In the deviations of the gradients, which get sqrt(noise) times as large.
        first, second = jnp.sqrt(objective.noise), objective.noise
        return jax.tree.map(lambda x, dx: first * dx + second * (x - dx), total, linear)

    def bounded(memory: Memory, psi: Features, more: Features, k: Scalar, least: Memory) -> Features:
        still, one = (jax.tree.map(f, psi) for f in (jnp.zeros_like, jnp.ones_like))
        foreseen = ahead_by(memory, psi, still, k)
        gain = ahead_by(jax.tree.map(jnp.zeros_like, memory), one, still, k)
        raised = []
        for whole, x, *rows in zip(signless(rule), more, least, foreseen, gain, strict=True):
            for low, S, G in zip(*rows, strict=True):
                x = x if S is None or not whole else jnp.maximum(x, (low - S) / G)
            raised.append(x)
        return tuple(raised)

    return Carrier(
        start,
        step,
        gradients,
        lambda tau, gradients, theta, memory, change: gradients,
        arrive,
        lambda memory, psi, change: states(memory, psi, change, rate),
        ahead_by,
        after,
        plus,
        readout,
        updating(ahead_by, after, readout),
        of_batch=of_batch,
        deviation=deviation,
        bounded=bounded,
    )


def held(kernels: tuple[Kernel, ...], memory: Memory, psi: Features) -> FeatureSums:
    """sum_k d^(n-k) psi(g_k) of every exponential after step n, whose own features psi are."""
    return _each(lambda d, S, psi: psi if S is None else S / weight(d), kernels, memory, psi)


def keeping_signs(still: Vector, more: Vector) -> Vector:
    """Leave out the part of the change where it alone turns the sign: no square is negative far ahead."""
    return jnp.where(still * (still + more) < 0, still, still + more)


def _each(f: Callable[..., Any], kernels: tuple[Kernel, ...], memory: Memory, *features: Features) -> Memory:
    """f(decay, state, feature, ..) for every exponential of every kernel."""
    return tuple(
        tuple(f(kernel.decay[e], S, *psi) for e, S in enumerate(row))
        for kernel, row, *psi in zip(kernels, memory, *features, strict=True)
    )


def signless(rule: AbstractRule) -> tuple[bool, ...]:
    """Which features are never below zero: found by trying."""
    with jax.ensure_compile_time_eval():
        return tuple(bool(jnp.all(psi >= 0)) for psi in rule.features(jnp.asarray(TRIED, rule.h.dtype)))


def which_are_deltas(rule: AbstractRule) -> tuple[tuple[bool, ...], ...]:
    """Which exponentials of each kernel are the present gradient alone: the decay 0, whatever is set.

    Found with made-up hyperparameters.
    """
    leaves, structure = jax.tree.flatten(rule)
    with jax.ensure_compile_time_eval():
        numbers = made_up((jnp.shape(leaf), leaf.dtype) for leaf in leaves)
        kernels = structure.unflatten(numbers).kernels(1)
        return tuple(tuple((np.asarray(kernel.decay) == 0).tolist()) for kernel in kernels)
