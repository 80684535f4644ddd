"""The largest eigenvalues of a symmetric operator A, using only products with vectors.

The Rayleigh-Ritz method on a Krylov space: from b starting vectors, an orthonormal basis q_0, q_1, .. is
built by

    q_{i+b} ~ A q_i, orthogonal to all before;    H_ij = q_i . A q_j,    H y = lambda y,    v = sum_i y_i q_i

For b = 1 this is Lanczos' iteration. A block finds a repeated eigenvalue up to b times. Every new vector is
made orthogonal to *all* before it, more than once. If nothing is left of it, because the basis already spans
an invariant subspace (low rank, a repeated eigenvalue, A = 0), a random vector takes its place (`spare`,
shifted cyclically by i), and the iteration goes on in the rest of the space. All norms are taken relative to
the largest entry, so the scale of A does not matter.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.types import Scalar, StepNumber, Vector

Rows = Float[Array, "rows p"]
Basis = Float[Array, "count p"]
Projected = Float[Array, "count count"]
Operator = Callable[[Vector], Vector]


def largest_eigenpairs(
    A: Operator, starts: Rows, spare: Vector, k: int, iterations: int
) -> tuple[Float[Array, " k"], Float[Array, "k p"], Float[Array, " k"]]:
    """The k largest (algebraic) eigenvalues in descending order, eigenvectors as rows, and residuals.

    The eigenvectors v have unit length, and the residuals are ||A v - lambda v||. It takes `iterations`
    products with A for each start, or p in all if that is less, which is exact; and k for the residuals.
    Derivatives of an eigenvalue are v . dA v, those of a converged one, in forward and reverse mode.
    """
    rows, p = starts.shape
    count = min(iterations * rows, p)
    Q, H = _krylov(A, starts, count, spare)
    vectors = jax.lax.stop_gradient(_ritz_vectors(Q, H)[:k])
    images = jax.lax.map(A, vectors)
    values = jnp.sum(vectors * images, axis=1)
    residuals = jax.vmap(norm)(images - values[:, None] * vectors)
    return values, vectors, residuals


def norm(v: Vector) -> Scalar:
    """||v||, scaled so that no square overflows or underflows."""
    size = jnp.max(jnp.abs(v))
    scale = jnp.where(size > 0, size, jnp.ones_like(size))
    return scale * jnp.linalg.norm(v / scale)


def _krylov(A: Operator, starts: Rows, count: int, spare: Vector) -> tuple[Basis, Projected]:
    """The basis q_0 .. q_{count-1} as rows, and H, of which only the lower triangle is complete."""
    rows, p = starts.shape
    empty = jnp.zeros((count + rows, p), starts.dtype), jnp.zeros((count, count), starts.dtype)

    def step(i: StepNumber, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        Q, H = carry
        w = jax.lax.cond(i < 0, lambda: starts[i], lambda: A(Q[i]))
        # For a start, i < 0 is one of the last rows of H, which is written again later.
        H = H.at[i].set(_product(Q[:count], w))
        return Q.at[i + rows].set(_new_direction(Q, w, spare, i + rows)), H

    Q, H = jax.lax.fori_loop(-rows, count, step, empty)
    return Q[:count], H


@jax.jit
def _ritz_vectors(Q: Basis, H: Projected) -> Basis:
    """The vectors v = sum_i y_i q_i as rows, in descending order of the eigenvalues of H."""
    lower = jnp.tril(H)
    size = jnp.max(jnp.abs(lower))
    H = (lower + jnp.tril(H, -1).T) / jnp.where(size > 0, size, jnp.ones_like(size))
    _, y = jnp.linalg.eigh(H)
    vectors = jnp.matmul(y.T[::-1], Q, precision=jax.lax.Precision.HIGHEST)
    return jax.vmap(lambda v: v / norm(v))(vectors)


@jax.jit
def _new_direction(Q: Rows, w: Vector, spare: Vector, i: StepNumber) -> Vector:
    """A unit vector orthogonal to the rows of Q, from w, or from the spare one if w lies in their span."""
    # Both at once: Q is read once for the two, and the function is compiled once.
    q, new = jax.vmap(_orthonormal, (None, 0))(Q, jnp.stack([w, jnp.roll(spare, i)]))
    return jnp.where(new[0], q[0], q[1])


def _orthonormal(Q: Rows, w: Vector) -> tuple[Vector, Array]:
    """w made orthogonal to the rows of Q and normalised, and whether it is a truly new direction.

    If little is left of w, the first pass magnifies rounding errors along Q. In the second pass a new
    direction keeps its length 1, while rounding errors lose most of it.
    """

    def once_more(q: Vector, _: None) -> tuple[Vector, Scalar]:
        left = q - _product(Q.T, _product(Q, q))
        length = norm(left)
        return left / _positive(length), length

    q, (once, twice, _) = jax.lax.scan(once_more, w / _positive(norm(w)), length=3)
    return q, (once > 100 * jnp.finfo(w.dtype).eps) & (twice > 1 / 2)


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _positive(x: Scalar) -> Scalar:
    return jnp.where(x == 0, jnp.ones_like(x), x)
