"""Sums over the past under the cyclic schedule, by a few rows instead of n: the cost does not grow with n.

With m mini-batches in turn, mini-batch b has at step l, in an exponential of unit mass, the weight

    w(l, b) = d^j gs(N+m-1-b-j) / (gs(N) gs(m)) = d^j (1 + z(l) gs(m-1-b-j)) / gs(m),    z(l) = d^N / gs(N)
    gs(N) = 1 + d + .. + d^(N-1) = (1 - d^N)/(1 - d),    j = (l-b) mod m,    N = l + 1

For a fixed phase c = l mod m it is affine in z(l), so that F^(l) is a smooth function of z_1(l), .., z_r(l).
After the first epochs these fill only a small box [0, Z_i], far from where F could be singular (a mini-batch
losing all its weight, N = +-(m-1)). There F is well approximated by a polynomial of low total degree, with an
error that falls like (4 epochs - 2)^-(degree+1). With the Lagrange polynomials of a few nodes z_k of the box,

    sum_{L<=l<n} u(n, l) F^(l) = sum_c sum_k U_{c,k} F_c(z_k),           L = m epochs
    U_{c,k} = sum_{L<=l<n, l in c} u(n, l) lagrange_k(z(l))

so only scalars are summed over l. The measured error is 1e-9 of the sum in float64 and 1e-6 in float32; in
the field it is multiplied by h.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from implicit_adam.fields.mini_batch.history_sum import (
    AddPast,
    Features,
    Memory,
    Rows,
    add_rows,
    add_steps,
    first_remembered,
    matmul,
)
from implicit_adam.loops import loop
from implicit_adam.objective import Gradients
from implicit_adam.rules.kernels import geometric_sum, owners, power, term_masses
from implicit_adam.types import StepNumber, Vector

Decays = Float[Array, " r"]

# How many steps are computed at once.
CHUNK = 512


class Resolution(NamedTuple):
    """How many epochs are summed step by step, and the total degree of the interpolation after them."""

    epochs: int
    degree: int


def resolution(dtype: DTypeLike) -> Resolution:
    """A resolution that is fine enough for the dtype."""
    return Resolution(8, 4) if jnp.finfo(dtype).bits >= 64 else Resolution(4, 3)


def few_rows(memory: Memory, n: StepNumber, m: int) -> AddPast:
    """The sum over all steps before n: cyclic schedule, kernels with the same masses at every step."""
    dtype = memory.rule.h.dtype
    L = m * resolution(dtype).epochs

    # For a static n the number of early steps is static too, which allows reverse mode.
    if isinstance(n, int):
        early, rows = min(n, L), late_rows(memory, n, m, dtype) if n > L else None
    else:
        early = jnp.minimum(n, L)
        shapes = jax.eval_shape(lambda n: late_rows(memory, n, m, dtype), n)
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        rows = jax.lax.cond(n > L, lambda: late_rows(memory, n, m, dtype), lambda: none)

    def add_past(G: Gradients, theta: Vector, a: Features) -> Features:
        a = add_steps(memory, n, 0, early, G, theta, a)
        if rows is None:
            return a

        def add_late(a: Features, rows: Rows) -> Features:
            return add_rows(memory.rule, rows, G, theta, a)

        return jax.lax.cond(n > L, add_late, lambda a, _: a, a, rows)

    return add_past


def late_rows(memory: Memory, n: StepNumber, m: int, dtype: DTypeLike) -> Rows:
    """One row for each phase and node, in place of all steps after the first epochs."""
    epochs, degree = resolution(dtype)
    L = m * epochs
    kernels = memory.rule.kernels(n)
    scale, decay = (jnp.concatenate([getattr(k, name) for k in kernels]) for name in ("scale", "decay"))
    interpolation = _interpolation(decay.size, degree)
    z = jnp.asarray(interpolation.nodes, dtype) * _share(decay, L + 1)[None]
    settled, slope = (x[:, None] for x in _phases(decay, m))
    moments = _moments(n, first_remembered(memory, n), m, L, decay, interpolation)
    visits, offset = (x[..., None] for x in moments)
    w = settled + z[None, :, :, None] * slope
    u = scale[None, None, :, None] * (settled * visits + slope * offset)
    rows = (m * len(z), len(kernels), m)
    w = matmul(term_masses(kernels, n), w).reshape(rows)
    u = matmul(jnp.asarray(owners(kernels), dtype), u).reshape(rows)
    return Rows(w, u, jnp.full(rows[0], n))


def _share(decay: Decays, N: StepNumber) -> Decays:
    """z = d^N / (1 + d + .. + d^(N-1)), about 1/N while nothing is forgotten."""
    return power(decay, N) / geometric_sum(decay, N)


def _phases(decay: Decays, m: int) -> tuple[Float[Array, "m r m"], Float[Array, "m r m"]]:
    """Mini-batch b weighs settled + z slope in phase c, with d^j / gs(m) and d^j gs(m-1-b-j) / gs(m)."""

    def phase(c: Int[Array, ""], b: Int[Array, ""]) -> tuple[Decays, Decays]:
        j = (c - b) % m
        ahead = m - 1 - b - j
        # gs(-s) = -d^(-s) gs(s), written without the negative power.
        slope = jnp.sign(ahead).astype(decay.dtype) * power(decay, j + jnp.minimum(ahead, 0))
        visits = geometric_sum(decay, m)
        return power(decay, j) / visits, slope * geometric_sum(decay, jnp.abs(ahead)) / visits

    over_batches = jax.vmap(phase, (None, 0), out_axes=1)
    return jax.vmap(over_batches, (0, None))(jnp.arange(m), jnp.arange(m))


def _moments(
    n: StepNumber, remembered: StepNumber, m: int, L: int, decay: Decays, interpolation: "Interpolation"
) -> tuple[Float[Array, "m nodes r"], Float[Array, "m nodes r"]]:
    """sum_{L<=l<n, l in c} lagrange_k(l) d^(n-l) times gs(N) and times d^N, N = l + 1; chunks of epochs."""

    def moments(l: StepNumber) -> Float[Array, "2 nodes r"]:
        N = jnp.minimum(l, n) + 1
        t = power(decay, N - L - 1) * geometric_sum(decay, L + 1) / geometric_sum(decay, N)
        used = jnp.where(l < n, power(decay, n + 1 - N), jnp.zeros_like(decay))
        here = jnp.stack([used * geometric_sum(decay, N), used * power(decay, N)])
        return interpolation.lagrange(t)[None, :, None] * here[:, None]

    epochs = max(1, CHUNK // m)
    first = jnp.maximum(remembered - L, 0) // m if not isinstance(n, int) else 0

    def add(i: StepNumber, total: Float[Array, "m 2 nodes r"]) -> Float[Array, "m 2 nodes r"]:
        epoch = first + i * epochs + jnp.arange(epochs)
        l = L + epoch[:, None] * m + jnp.arange(m)[None]
        return total + jnp.sum(jax.vmap(jax.vmap(moments))(l), axis=0)

    zero = jnp.zeros((m, 2, len(interpolation.nodes), decay.size), decay.dtype)
    total = loop(0, -(-(n - L - first * m) // (epochs * m)), add, zero)
    return total[:, 0], total[:, 1]


class Interpolation(NamedTuple):
    """Polynomials in r variables: exponents, as many nodes in [0, 1]^r, the map from powers to Lagrange."""

    exponents: np.ndarray
    nodes: np.ndarray
    from_powers: np.ndarray

    def lagrange(self, t: Decays) -> Float[Array, " nodes"]:
        """The Lagrange polynomials at t."""
        powers = jnp.stack([(2 * t - 1) ** e for e in range(self.exponents.max() + 1)])
        monomials = jnp.prod(powers[self.exponents, np.arange(t.size)], axis=1)
        return matmul(monomials, jnp.asarray(self.from_powers, t.dtype))


def _interpolation(r: int, degree: int) -> Interpolation:
    exponents = np.array([e for e in itertools.product(range(degree + 1), repeat=r) if sum(e) <= degree])
    nodes = _leja(degree)[exponents]
    monomials = np.prod((2 * nodes - 1)[:, None, :] ** exponents[None], axis=2)
    return Interpolation(exponents, nodes, np.linalg.inv(monomials))


def _leja(degree: int) -> np.ndarray:
    """Chebyshev points of [0, 1] in Leja order: each leading part is a good set of nodes, too."""
    left = list((1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2)
    chosen = [left.pop(0)]
    while left:
        chosen.append(left.pop(int(np.argmax([np.prod(np.abs(x - np.array(chosen))) for x in left]))))
    return np.array(chosen)
