"""Means and weighted sums of features over the mini-batches, as many at once as fit in memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.loops import scanned_sum
from implicit_adam.objective import Objective
from implicit_adam.types import Scalar, Vector

# How many numbers the gradients of simultaneous mini-batches may fill.
AT_ONCE = 2**22


def mean_over_batches(f: Callable[[Vector], Any], theta: Vector, objective: Objective) -> Any:
    """(1/m) sum_b f(grad E_b(theta))."""
    if objective.batches is None:
        return f(objective.gradient(theta))
    total = _summed(lambda batch: f(objective.gradient(theta, batch)), objective.batches, theta, objective)
    return jax.tree.map(lambda x: x / objective.m, total)


def weighted_sum(
    f: Callable[[Vector], Any], weights: Float[Array, " m"], theta: Vector, objective: Objective
) -> Any:
    """sum_b weights_b f(grad E_b(theta))."""

    def of_batch(batch_and_weight: Any) -> Any:
        batch, w = batch_and_weight
        return jax.tree.map(lambda x: w.astype(x.dtype) * x, f(objective.gradient(theta, batch)))

    return _summed(of_batch, (objective.batches, weights), theta, objective)


def _summed(of_batch: Callable[[Any], Any], batches: Any, theta: Vector, objective: Objective) -> Any:
    """The sum over the mini-batches, as many at once as fit, in sequence otherwise."""
    m = objective.m
    together = max(c for c in range(1, m + 1) if m % c == 0 and (c == 1 or c * theta.size <= AT_ONCE))
    chunks = jax.tree.map(lambda x: x.reshape(m // together, together, *x.shape[1:]), batches)

    def of_chunk(chunk: Any) -> Any:
        return jax.tree.map(lambda x: jnp.sum(x, 0), jax.vmap(of_batch)(chunk))

    return scanned_sum(of_chunk, chunks)


def with_noise(of_mean: Any, mean: Any, noise: Scalar) -> Any:
    """E f(g) with the variance of g times `noise`: f(E g) + noise [E f(g) - f(E g)], exact for squares.

    For other functions it is correct to first order in the variance.
    """
    return jax.tree.map(lambda x, y: x + noise.astype(x.dtype) * (y - x), of_mean, mean)
