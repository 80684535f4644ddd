"""Discounted counts of the visits to each mini-batch.

    A_b(l) = sum_{k <= l, schedule[k] = b} decay^(l-k)

is all that a sum of exponential kernels needs to know about the schedule. The weight of mini-batch b at step
l is w_b(l) = sum_e scale_e(l) A_{e,b}(l), and the part of it from visits up to an earlier step is a power of
the decay times the A of that step. A depends on neither theta nor h, so a flow computes it once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.rules.kernels import geometric_sum, power
from implicit_adam.types import Schedule, StepNumber

Decays = Float[Array, " terms"]
Visits = Float[Array, "terms m"]


def discounted_visits(schedule: Schedule | None, m: int, decay: Decays) -> Callable[[StepNumber], Visits]:
    """l -> A(l), from a table for a given schedule and in closed form for the cyclic one."""
    if schedule is None:
        return lambda step: _cyclic(step, m, decay)
    table = _table(schedule, m, decay)
    return lambda step: table.at[step].get(mode="fill", fill_value=jnp.nan)


def _cyclic(step: StepNumber, m: int, decay: Decays) -> Visits:
    """Batch b was visited at the lags j, j+m, j+2m, .. with j = (step - b) mod m."""

    def visits(b: Int[Array, ""]) -> Decays:
        # 1 + d^m + .. as a quotient: a rounded d^m is too coarse near 1.
        visited = geometric_sum(decay, m * ((step - b) // m + 1)) / geometric_sum(decay, m)
        return power(decay, (step - b) % m) * visited

    return jax.vmap(visits, out_axes=1)(jnp.arange(m, dtype=jnp.asarray(step).dtype))


def _table(schedule: Schedule, m: int, decay: Decays) -> Float[Array, "steps terms m"]:
    """A(l) = decay A(l-1) + [schedule[l] = b]."""

    def visit(A: Visits, b: Int[Array, ""]) -> tuple[Visits, Visits]:
        known = (b >= 0) & (b < m)
        visited = jnp.where(known, jax.nn.one_hot(b, m, dtype=decay.dtype), jnp.full(m, jnp.nan, decay.dtype))
        A = decay[:, None] * A + visited[None]
        return A, A

    return jax.lax.scan(visit, jnp.zeros((decay.size, m), decay.dtype), schedule)[1]
