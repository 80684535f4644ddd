"""Any optax transformation with carried memory, from its own `update` and no knowledge of its kernels.

Its memories are the recursions y_(n+1) = d y_n + (1-d) psi_n of `optax_recursion`, carried as those of a
rule (`fading`). psi comes from one call of `update` with y = 0, whose new state is (1-d) psi. A memory of
d = 0 is the psi of one step ago, which needs no state: psi(t - h) on the line through psi(t) and its change.

The update of the step from t - h/2 to t + h/2 is read from `update` at the gradient, the point and the state
half a step before its end, with the counters n = t/h - 1/2. What a memory is after the step is known,
A = S(t + h/2), so that the state before it is put as (A - (1-d) psi')/d with the psi' of the gradient given:
the new state is A whatever psi is, as for a rule of kernels. Else it would differ by O(h^2).

With mini-batches the mean of `update` over them is taken, every one from the same state: of psi, and of the
update itself, in whose present gradient the mini-batches differ while the memories are those of the mean run.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.carrier import Carrier, Features, Memory, keeping_signs
from implicit_adam.fields.carried.fading import rate, way_ahead, weight
from implicit_adam.objective import Objective
from implicit_adam.rules.optax_any_time import Memories
from implicit_adam.rules.optax_recursion import Recursions, recursions, without
from implicit_adam.rules.optax_rule import Optax
from implicit_adam.rules.optax_state import away_from_zero, initial_state
from implicit_adam.types import Scalar, StepNumber, Vector


def recursions_of(rule: Optax, objective: Objective, theta: Vector) -> Recursions:
    """Its memories on parameters like theta."""
    return recursions(rule.tx, jax.eval_shape(objective.unravel, theta))


def carried_optax(rule: Optax, objective: Objective, known: Recursions) -> Carrier:
    """The features are (gradients, psi of every memory); gradients have a leading axis of mini-batches."""
    at, level = known.at, known.level
    _check_batches(known, objective)
    decays = [jnp.asarray(d) for d in known.decay]

    def each(f: Callable[..., Any], *columns: Memories) -> Memories:
        return [
            f(jnp.asarray(d, columns[0][i].dtype), *(x[i] for x in columns)) for i, d in enumerate(decays)
        ]

    def mean_update(n: Scalar, g: Any, memories: Memories, theta: Vector) -> tuple[Vector, Memories]:
        if objective.batches is None:
            return at.update(n, away_from_zero(g), memories, theta)
        every = jax.vmap(lambda g: at.update(n, away_from_zero(g), memories, theta))(g)
        return jax.tree.map(lambda x: jnp.mean(x, 0), every)

    def gradients(theta: Vector) -> Any:
        return (
            jax.grad(objective.loss)(theta, None) if objective.batches is None else objective.gradients(theta)
        )

    def of_level(this: int, n: Scalar, g: Any, memories: Memories, theta: Vector, psi: Memories) -> Memories:
        """psi with that of one level in its place."""
        new = mean_update(n, g, without(level, this, memories), theta)[1]
        return [
            y / weight(jnp.asarray(d, y.dtype)) if l == this else x
            for l, d, y, x in zip(level, decays, new, psi, strict=True)
        ]

    every_level = range(1 + max(level, default=-1))

    def features(tau: Scalar, g: Any, theta: Vector, memory: Memory, change: Features | None) -> Features:
        psi = memory
        ago = [jnp.zeros_like(y) for y in memory] if change is None else change[1]
        for this in every_level:
            # A memory of d = 0 is what its psi was.
            now = [x - dx if d == 0 else y for d, y, x, dx in zip(known.decay, memory, psi, ago, strict=True)]
            psi = of_level(this, tau, g, now, theta, psi)
        return g, psi

    def arrive(
        tau: Scalar, memory: Memory, psi: Features, v: Scalar, theta: Vector, g: Any
    ) -> tuple[Features, Features]:
        there, change = psi[1], [jnp.zeros_like(x) for x in psi[1]]
        for this in every_level:
            there = of_level(this, tau + v, g, ahead(memory, psi, (None, change), v), theta, there)
            change = [
                (b - a) / v if l <= this else x
                for l, a, b, x in zip(level, psi[1], there, change, strict=True)
            ]
        return (g, there), (jax.tree.map(lambda a, b: (b - a) / v, psi[0], g), change)

    def ahead(memory: Memory, psi: Features, change: Any, v: Scalar) -> Memory:
        def moved(d: Scalar, S: Any, psi: Any, change: Any) -> Any:
            still, more = way_ahead(d, S, psi, change, v)
            return still + more

        return each(moved, memory, psi[1], change[1])

    def update(
        tau: Scalar, theta: Vector, memory: Memory, psi: Features, change: Features, v: Scalar
    ) -> Vector:
        w = v - 1 / 2
        g = jax.tree.map(lambda g, dg: g + w * dg, psi[0], change[0])
        then = ahead(memory, psi, change, w)
        present = then
        for this in every_level:
            present = of_level(this, tau + w, g, then, theta, present)

        def before(i: int, d: Any) -> Any:
            d_i = jnp.asarray(d, then[i].dtype)
            if d == 0:
                return then[i]
            after = keeping_signs(*way_ahead(d_i, memory[i], psi[1][i], change[1][i], v + 1 / 2))
            put = (after - weight(d_i) * present[i]) / d_i
            # Not every mini-batch adds as much as their mean.
            return jnp.maximum(put, 0) if known.nonnegative[i] and objective.batches is not None else put

        state = [before(i, d) for i, d in enumerate(known.decay)]
        return -rule.h * mean_update(tau + w, g, state, theta)[0]

    def start(theta: Vector) -> Memory:
        return at.memories(initial_state(at.tx, theta))

    def step(n: StepNumber, theta: Vector, memory: Memory) -> tuple[Vector, Memory]:
        u, memory = mean_update(jnp.asarray(n).astype(theta.dtype), gradients(theta), memory, theta)
        return theta + rule.h * u, memory

    def rates(memory: Memory, psi: Features, change: Features) -> Memory:
        return each(rate, memory, psi[1], change[1])

    passes = 1 + max((1 + l for d, l in zip(known.decay, level, strict=True) if d == 0), default=0)
    return Carrier(start, step, gradients, features, arrive, rates, ahead, update, passes)


def _check_batches(known: Recursions, objective: Objective) -> None:
    if objective.batches is None:
        return
    named = zip(known.at.memory_names, known.decay, known.of_gradient, strict=True)
    delays = [name for name, d, of_gradient in named if d == 0 and of_gradient]
    if delays:
        msg = (
            f"this transformation keeps the gradient of the step before ({', '.join(delays)}), which is that "
            "of another mini-batch and differs by as much as mini-batches do: the mean run has no equation "
            "in mean memories; leave out the batches and take their mean as the loss"
        )
        raise ValueError(msg)


def shown_state(known: Recursions, memory: Memory) -> Any:
    """A pytree like the transformation's state, with None for counters, constants and memories of d = 0."""
    return known.at.shown([None if d == 0 else y for d, y in zip(known.decay, memory, strict=True)])


def memory_of_state(known: Recursions, shown: Any, theta: Vector) -> Memory:
    """The memories in such a pytree, with zeros for what has no state."""
    at = known.at
    like = at.memories(jax.eval_shape(at.tx.init, theta))
    leaves = at.structure.flatten_up_to(shown)
    found = [y for y, leaf in zip(leaves, at.leaves, strict=True) if leaf is None]
    return [jnp.zeros(x.shape, x.dtype) if y is None else y for x, y in zip(like, found, strict=True)]
