"""Moments of the lag j = n - k under the kernels, which order 2 needs in full batch.

    mass_i = E_i[1],    first_i = E_i[j],    second_i = E_i[j^2],        E_i[.] = sum_k w_i(n, k) (.)
    cross_ii' = E_i[ sum_{l=n-j}^{n-1} first_i'(l) ] = sum_{t=1}^{n} E_i[j >= t] first_i'(n-t)

All depend on n alone, so a flow computes them once per interval.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.fields.mini_batch.history_sum import matmul, window
from implicit_adam.loops import loop
from implicit_adam.rules.kernels import (
    HasKernels,
    geometric_sum,
    lag_moment,
    mass,
    mean_lag,
    power,
    squared_lag_moment,
    term_masses,
)
from implicit_adam.types import StepNumber

# How many lags are computed at once.
CHUNK = 512


class LagMoments(NamedTuple):
    """The moments of the r kernels at one step."""

    mass: Float[Array, " r"]
    first: Float[Array, " r"]
    second: Float[Array, " r"]
    cross: Float[Array, "r r"]


def lag_moments(rule: HasKernels, n: StepNumber) -> LagMoments:
    """The moments at any n > -1, integer or not, for kernels of known mass; at `jnp.inf` if they forget."""
    kernels = rule.kernels(n)
    moments = (mass, lag_moment, squared_lag_moment)
    ones, first, second = (jnp.stack([moment(kernel, n) for kernel in kernels]) for moment in moments)
    if isinstance(n, float) and np.isinf(n):
        return LagMoments(ones, first, second, first[:, None] * first[None])
    return LagMoments(ones, first, second, _cross(rule, n))


def smooth_lag_moments(rule: HasKernels, n: StepNumber) -> LagMoments:
    """The moments for continuous n, where mean lags averaged over n - 1/2 .. n + 1/2 are those of step n."""
    moments = lag_moments(rule, n)

    def first(n: StepNumber) -> Float[Array, " r"]:
        return jnp.stack([lag_moment(kernel, n) for kernel in rule.kernels(n)])

    bend = first(n + 1) - 2 * moments.first + first(n - 1)
    return moments._replace(first=moments.first - bend / 24)


def _cross(rule: HasKernels, n: StepNumber) -> Float[Array, "r r"]:
    """The sum over the lags t that the memory holds with l = n - t > 0, since the lag of step 0 is 0."""
    kernels = rule.kernels(n)
    decay = jnp.concatenate([kernel.decay for kernel in kernels])
    masses = term_masses(kernels, n)
    n = jnp.asarray(n).astype(decay.dtype)

    def product(t: StepNumber) -> Float[Array, "r r"]:
        l = jnp.maximum(n - t, jnp.zeros_like(n))
        beyond = power(decay, t) * geometric_sum(decay, l + 1) / geometric_sum(decay, n + 1)
        usage, lag = matmul(masses, beyond), matmul(masses, mean_lag(decay, l + 1))
        return jnp.where(n - t > 0, usage[:, None] * lag[None], jnp.zeros_like(n))

    def add(i: StepNumber, total: Float[Array, "r r"]) -> Float[Array, "r r"]:
        t = 1 + i * CHUNK + jnp.arange(CHUNK)
        return total + jnp.sum(jax.vmap(product)(t.astype(decay.dtype)), axis=0)

    chunks = jnp.ceil(jnp.minimum(n, window(kernels)) / CHUNK).astype(int)
    return loop(0, chunks, add, jnp.zeros((len(kernels), len(kernels)), decay.dtype))
