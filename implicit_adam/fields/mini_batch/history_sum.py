"""The contribution of the past to the lagged displacements: sum_{l<n} u(n, l) F^(l), row by row.

A *row* is one update frozen at theta, F = phi(sum_b w(b) psi(g_b), theta), given by the weights w of the
mini-batches at its step, together with the weights u with which it enters the sum for step n. Rows cost two
matrix products with the readout between them, so many are taken at a time; if it is elementwise, on tiles of
theta that stay in the cache. No (n, p) array exists.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from implicit_adam.fields.mini_batch.discounted_counts import Visits, discounted_visits
from implicit_adam.loops import loop, scanned_sum
from implicit_adam.objective import Gradients, Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.kernels import HasKernels, Kernel, at_lag
from implicit_adam.types import Scalar, StepNumber, Vector

Weights = Float[Array, "r m"]
Features = Float[Array, "r m p"]

# G, theta, a -> a + sum_{l<n} u(n, l) F^(l)
AddPast = Callable[[Gradients, Vector, Features], Features]

ROWS = 32
TILE = 4096


class Rows(NamedTuple):
    """The weights w, the weights u and the step numbers of some rows."""

    w: Float[Array, "rows r m"]
    u: Float[Array, "rows r m"]
    step: Real[Array, " rows"]


class Memory(NamedTuple):
    """The weights of mini-batches in a rule's memory, from the discounted visits A_i(l) of each kernel."""

    rule: HasKernels
    visits: list[Callable[[StepNumber], Visits]]

    def weights(self, l: StepNumber) -> Weights:
        """w_i(l, b): the weight of mini-batch b at step l."""
        kernels = self.rule.kernels(l)
        return jnp.stack([matmul(kernel.scale, A(l)) for kernel, A in zip(kernels, self.visits, strict=True)])

    def partial_weights(self, n: StepNumber, l: StepNumber) -> Weights:
        """u_i(n, l, b): the weight at step n of the visits to mini-batch b up to step l."""
        kernels = self.rule.kernels(n)
        return jnp.stack(
            [matmul(at_lag(kernel, n - l), A(l)) for kernel, A in zip(kernels, self.visits, strict=True)]
        )

    def rows(self, n: StepNumber, first: StepNumber, last: StepNumber) -> Rows:
        """The `ROWS` steps from `first` on; those from `last` on have u = 0."""
        l = first + jnp.arange(ROWS)
        u = jax.vmap(self.partial_weights, (None, 0))(n, jnp.minimum(l, n))
        u = jnp.where((l < last)[:, None, None], u, jnp.zeros_like(u))
        return Rows(jax.vmap(self.weights)(jnp.minimum(l, n)), u, jnp.minimum(l, n))


def memory_of(rule: HasKernels, objective: Objective) -> Memory:
    """The memory of a rule under the objective's schedule."""
    visits = [discounted_visits(objective.schedule, objective.m, kernel.decay) for kernel in rule.kernels(0)]
    return Memory(rule, visits)


def every_step(memory: Memory, n: StepNumber) -> AddPast:
    """The sum over all steps before n that the memory still holds: exact for every rule and schedule."""
    first = first_remembered(memory, n)
    return lambda G, theta, a: add_steps(memory, n, first, n, G, theta, a)


def add_steps(
    memory: Memory,
    n: StepNumber,
    first: StepNumber,
    last: StepNumber,
    G: Gradients,
    theta: Vector,
    a: Features,
) -> Features:
    """a + sum_{first<=l<last} u(n, l) F^(l)."""

    def add(i: StepNumber, a: Features) -> Features:
        return add_rows(memory.rule, memory.rows(n, first + i * ROWS, last), G, theta, a)

    return loop(0, -(-(last - first) // ROWS), add, a)


def first_remembered(memory: Memory, n: StepNumber, moment: int = 0) -> StepNumber:
    """The step before which all has faded below rounding; 0 for a static n, to allow reverse mode.

    The fading of each mini-batch is measured against that batch's own weight, not against the current one's:
    a batch seen long ago still matters if its gradients are large enough, and their size is not known here.
    """
    if isinstance(n, int):
        return 0
    kernels = memory.rule.kernels(n)
    shares = [_least_share(kernel, A(n)) for kernel, A in zip(kernels, memory.visits, strict=True)]
    lag = jnp.ceil(window(kernels, jnp.concatenate(shares), moment)).astype(float)
    n = jnp.asarray(n)
    # Integers are subtracted as integers: beyond 2^24 a float32 does not hold n.
    held = jnp.where(lag < n.astype(float), lag, jnp.zeros_like(lag)).astype(n.dtype)
    return jnp.where(lag < n.astype(float), n - held, jnp.zeros_like(n))


def _least_share(kernel: Kernel, visits: Visits) -> Float[Array, " terms"]:
    """The smallest share of any mini-batch seen so far, for each exponential."""
    share = visits * (1 - kernel.decay)[:, None]
    return jnp.min(jnp.where(visits > 0, share, jnp.ones_like(share)), axis=1)


def add_rows(rule: HasKernels, rows: Rows, G: Gradients, theta: Vector, a: Features) -> Features:
    """a + sum_rows u F(w), tile by tile; features are computed in the tile, which saves r m vectors.

    If features or readout are not elementwise, all of theta is one tile, for as many rows at a time as a tile
    has room for.
    """
    p = theta.size
    if not isinstance(rule, AbstractRule):
        psi = jnp.stack(rule.features(G))
        pieces = _in_pieces(rows, max(1, ROWS * TILE // p))
        return a + scanned_sum(lambda rows: _sum_of_rows(rule, rows, psi, theta), pieces)
    whole, rest = divmod(p, TILE)

    def tile(start: StepNumber, size: int, a: Features) -> Features:
        def cut(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis=-1)

        here = cut(a) + _sum_of_rows(rule, rows, jnp.stack(rule.features(cut(G))), cut(theta))
        return jax.lax.dynamic_update_slice_in_dim(a, here, start, axis=-1)

    if whole:
        a = loop(0, whole, lambda i, a: tile(i * TILE, TILE, a), a)
    return tile(p - rest, rest, a) if rest else a


def _in_pieces(rows: Rows, size: int) -> Rows:
    """The rows with a leading axis of pieces; the last piece is filled up with rows that count nothing."""
    count = len(rows.step)
    size = min(size, count)
    more = -count % size
    filled = jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], more, axis=0)]), rows)
    filled = filled._replace(u=filled.u.at[count:].set(0))
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), filled)


def _sum_of_rows(rule: HasKernels, rows: Rows, psi: Features, theta: Vector) -> Features:
    s = tuple(matmul(rows.w[:, i], psi_i) for i, psi_i in enumerate(psi))
    F = jax.vmap(rule.readout, (0, None, 0))(s, theta, rows.step)
    return matmul(rows.u.reshape(len(F), -1).T, F).reshape(psi.shape)


def window(
    kernels: tuple[Kernel, ...], share: Float[Array, " terms"] | None = None, moment: int = 0
) -> Scalar:
    """The lag beyond which (lag/memory)^moment decay^lag < eps share for every term; eps is the dtype's."""
    decay = jnp.concatenate([kernel.decay for kernel in kernels])
    depth = -jnp.log(jnp.finfo(decay.dtype).eps * (jnp.ones_like(decay) if share is None else share))
    # One substitution into lag/memory = depth + moment log(lag/memory), from the safe side.
    lag = (depth + moment * jnp.log(2 * depth)) / -jnp.log(decay)
    return jnp.max(jnp.where(decay < 1, lag, jnp.inf))


def matmul(x: Array, y: Array) -> Array:
    """x y in full precision: errors of TF32 or bfloat16 would be larger than the correction itself."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
