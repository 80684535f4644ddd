"""A rule as a carrier: each exponential of each kernel is a state, except the present gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.fields.carried.carrier import Carrier, Features, Memory, keeping_signs, updating
from implicit_adam.fields.carried.fading import Factor, adjusted, ahead, rate, way_ahead, weight
from implicit_adam.fields.carried.over_batches import mean_over_batches, weighted_sum, with_noise
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.feature_sums import FeatureSums, read
from implicit_adam.rules.hyperparameters import made_up
from implicit_adam.rules.kernels import Kernel
from implicit_adam.types import Scalar, StepNumber, Vector

# Gradients to try features on.
TRIED = (0.0, 1e-4, -0.3, 1.0, -1e3)


def carried_rule(rule: AbstractRule, objective: Objective) -> Carrier:
    """The carrier of a rule, with a state for each exponential of each kernel, None for the present gradient.

    States are averages without bias correction, which is part of the kernel's scale at n = tau - 1/2. With
    mini-batches each step adds the mean of their features: the equation of the mean over random orders.
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

    def rates(memory: Memory, psi: Features, change: Features, factor: Factor | None = None) -> Memory:
        return states(memory, psi, change, lambda d, S, psi, dpsi: rate(d, S, psi, adjusted(dpsi, d, factor)))

    def ahead_by(
        memory: Memory, psi: Features, change: Features, v: Scalar, factor: Factor | None = None
    ) -> Memory:
        def one(d: Scalar, S: Vector, psi: Vector, change: Vector) -> Vector:
            return ahead(d, S, psi, adjusted(change, d, factor), v)

        return states(memory, psi, change, one)

    def after(
        memory: Memory, psi: Features, change: Features, v: Scalar, factor: Factor | None = None
    ) -> Memory:
        def one(d: Scalar, S: Vector, psi: Vector, change: Vector) -> Vector:
            return keeping_signs(*way_ahead(d, S, psi, adjusted(change, d, factor), v))

        return states(memory, psi, change, one)

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

    def deviation(theta: Vector, psi: Features, weights: Float[Array, " m"], share: Scalar) -> Features:
        centred = weights - jnp.mean(weights)
        if objective.noise is None:
            return weighted_sum(rule.features, centred, theta, objective)
        dg = jnp.sqrt(objective.noise) * weighted_sum(lambda g: g, centred, theta, objective)
        g = mean_over_batches(lambda g: g, theta, objective)
        return jax.tree.map(
            lambda there, here, mean: there - here - share * (mean - here),
            rule.features(g + dg),
            rule.features(g),
            psi,
        )

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
        rates,
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
    """sum_k d^(n-k) psi(g_k) for every exponential after step n, where psi are the features of that step."""
    return _each(lambda d, S, psi: psi if S is None else S / weight(d), kernels, memory, psi)


def _each(f: Callable[..., Any], kernels: tuple[Kernel, ...], memory: Memory, *features: Features) -> Memory:
    """f(decay, state, feature, ..) for every exponential of every kernel."""
    return tuple(
        tuple(f(kernel.decay[e], S, *psi) for e, S in enumerate(row))
        for kernel, row, *psi in zip(kernels, memory, *features, strict=True)
    )


def signless(rule: AbstractRule) -> tuple[bool, ...]:
    """Whether each feature is never negative, found by evaluating it with made-up hyperparameters."""
    with jax.ensure_compile_time_eval():
        tried = _of_made_up_numbers(rule).features(jnp.asarray(TRIED, rule.h.dtype))
        return tuple(bool(jnp.all(psi >= 0)) for psi in tried)


def which_are_deltas(rule: AbstractRule) -> tuple[tuple[bool, ...], ...]:
    """Whether each exponential of each kernel is the present gradient alone: decay 0 for all hyperparameters.

    Found with made-up hyperparameters.
    """
    with jax.ensure_compile_time_eval():
        kernels = _of_made_up_numbers(rule).kernels(1)
        return tuple(tuple((np.asarray(kernel.decay) == 0).tolist()) for kernel in kernels)


def _of_made_up_numbers(rule: AbstractRule) -> AbstractRule:
    leaves, structure = jax.tree.flatten(rule)
    return structure.unflatten(map(jnp.asarray, made_up((jnp.shape(leaf), leaf.dtype) for leaf in leaves)))
