"""Any optax transformation as a carrier, from its own `update`, without knowing its kernels.

Its memories are the recursions y_(n+1) = d y_n + (1-d) psi_n of `from_optax.recursion`, carried like those of
a rule (`fading`), with all memories of one kind in one vector. psi comes from a call of `update` with y = 0,
whose new state is (1-d) psi. A memory of d = 0 is the psi of one step ago, which needs no state: psi(t - h)
follows from psi(t) and its change, on a line.

The update of the step from t - h/2 to t + h/2 comes from `update` at the gradient, the point and the memories
of t - h/2, with the counters n = t/h - 1/2. What is known is the memory after the step, A = y(t + h/2). So
the memory before it is set to (A - (1-d) psi')/d, with the psi' of the given gradient; this is y(t - h/2) to
O(h^2), and the new state is A whatever psi' is, as for a rule.

With mini-batches the mean of `update` over them is taken, each from the same state: both for psi and for the
update itself, in which the present gradient differs between mini-batches while the memories are those of the
mean run.
"""

from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.carrier import (
    Carrier,
    Features,
    Memory,
    keeping_signs,
    updating,
)
from implicit_adam.fields.carried.fading import Factor, adjusted, rate, way_ahead, weight
from implicit_adam.fields.carried.over_batches import with_noise
from implicit_adam.objective import Objective
from implicit_adam.rules.from_optax.packed import Packed
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.rules.from_optax.state import away_from_zero, initial_state
from implicit_adam.types import Scalar, StepNumber, Vector


def carried_optax(rule: Optax, objective: Objective, packed: Packed) -> Carrier:
    """The carrier; its features are (gradients, psi of every memory), gradients with a mini-batch axis."""
    _check_batches(packed, objective)
    kinds, levels = packed.kinds, packed.levels

    def mean_update(n: Scalar, g: Any, memory: Memory, theta: Vector) -> tuple[Vector, Memory]:
        if objective.batches is None:
            return packed.update(n, away_from_zero(g), memory, theta)

        def of(g: Vector) -> tuple[Vector, Memory]:
            return packed.update(n, away_from_zero(g), memory, theta)

        if objective.noise is None:
            return jax.tree.map(lambda x: jnp.mean(x, 0), jax.vmap(of)(g))
        # That of the mean beside the others: a call of its own would be compiled as often again.
        rows = jax.vmap(of)(jnp.concatenate([g, jnp.mean(g, 0, keepdims=True)]))
        mean = jax.tree.map(lambda x: jnp.mean(x[:-1], 0), rows)
        return with_noise(jax.tree.map(lambda x: x[-1], rows), mean, objective.noise)

    def gradients(theta: Vector) -> Any:
        if objective.batches is None:
            return objective.gradient(theta)
        return objective.gradients(theta)

    def with_level(this: int, n: Scalar, g: Any, memory: Memory, theta: Vector, psi: Memory) -> Memory:
        """psi with the entries of one level computed anew; they need the memories of the levels below."""
        empty = [
            jnp.zeros_like(y) if kind.level == this else y for kind, y in zip(kinds, memory, strict=True)
        ]
        new = mean_update(n, g, empty, theta)[1]
        rows = zip(kinds, packed.decays, new, psi, strict=True)
        return [y / weight(d) if kind.level == this else x for kind, d, y, x in rows]

    def features(tau: Scalar, g: Any, theta: Vector, memory: Memory, change: Features | None) -> Features:
        psi = memory
        ago = [jnp.zeros_like(y) for y in memory] if change is None else change[1]
        for this in levels:
            rows = zip(kinds, memory, psi, ago, strict=True)
            now = [x - dx if kind.decay == 0 else y for kind, y, x, dx in rows]
            psi = with_level(this, tau, g, now, theta, psi)
        return g, psi

    def arrive(
        tau: Scalar, memory: Memory, psi: Features, v: Scalar, theta: Vector, g: Any
    ) -> tuple[Features, Features]:
        there, change = psi[1], [jnp.zeros_like(x) for x in psi[1]]
        for this in levels:
            there = with_level(this, tau + v, g, ahead(memory, psi, (None, change), v), theta, there)
            change = [(b - a) / v for a, b in zip(psi[1], there, strict=True)]
        return (g, there), ((g - psi[0]) / v, change)

    def rows(memory: Memory, psi: Features, change: Any, factor: Factor | None) -> Any:
        for d, y, x, dx in zip(packed.decays, memory, psi[1], change[1], strict=True):
            yield d, y, x, adjusted(dx, d, factor)

    def ahead(memory: Memory, psi: Features, change: Any, v: Scalar, factor: Factor | None = None) -> Memory:
        return [sum(way_ahead(d, y, x, dx, v)) for d, y, x, dx in rows(memory, psi, change, factor)]

    def rates(memory: Memory, psi: Features, change: Features, factor: Factor | None = None) -> Memory:
        return [rate(d, y, x, dx) for d, y, x, dx in rows(memory, psi, change, factor)]

    def after(
        memory: Memory, psi: Features, change: Features, v: Scalar, factor: Factor | None = None
    ) -> Memory:
        return [
            keeping_signs(*way_ahead(d, y, x, dx, v)) for d, y, x, dx in rows(memory, psi, change, factor)
        ]

    def plus(memory: Memory, more: Memory) -> Memory:
        rows = zip(kinds, memory, more, strict=True)
        return [keeping_signs(y, dy) if kind.nonnegative else y + dy for kind, y, dy in rows]

    def read(n: Scalar, theta: Vector, psi: Features, before: Memory, after: Memory) -> Vector:
        (g, _), present = psi, before
        for this in levels:
            present = with_level(this, n, g, before, theta, present)
        for i, (kind, d) in enumerate(zip(kinds, packed.decays, strict=True)):
            if kind.decay > 0:
                before = [*before[:i], (after[i] - weight(d) * present[i]) / d, *before[i + 1 :]]
                # A single mini-batch may add less than the mean of all.
                if kind.nonnegative and objective.batches is not None:
                    before[i] = jnp.maximum(before[i], 0)
        return -rule.h * mean_update(n, g, before, theta)[0]

    def start(theta: Vector) -> Memory:
        return packed.memory(initial_state(packed.known.at.tx, theta))

    def step(n: StepNumber, theta: Vector, memory: Memory, _more: None = None) -> tuple[Vector, Memory]:
        u, memory = mean_update(jnp.asarray(n).astype(theta.dtype), gradients(theta), memory, theta)
        return theta + rule.h * u, memory

    passes = 1 + max((1 + kind.level for kind in kinds if kind.decay == 0), default=0)
    return Carrier(
        start,
        step,
        gradients,
        features,
        arrive,
        rates,
        ahead,
        after,
        plus,
        read,
        updating(ahead, after, read),
        passes,
        max(1, len(levels)),
    )


def _check_batches(packed: Packed, objective: Objective) -> None:
    if objective.batches is not None and packed.delays:
        msg = (
            f"this transformation keeps the gradient of the step before ({', '.join(packed.delays)}), "
            "which comes from another mini-batch, so that the mean over random orders has no equation in "
            "mean memories; leave out the batches and use the mean over them as the loss"
        )
        raise ValueError(msg)
