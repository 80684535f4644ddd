"""A semidefinite complementarity problem in a few dimensions.

    X >= 0,     Y = A + B[X] >= 0,     <X, Y> = 0,          B[X]_ij = sum_kl B_ijkl X_kl

for symmetric k x k matrices, where >= 0 means without negative eigenvalues: X keeps a slack A from becoming
negative. For k = 1, X = max(0, -A/B). X and Y are the two parts of one matrix W = X - Y,
and Newton's method solves Y = A + B[X] for W, with both parts smoothed,

    X, Y = (W^2 + 4 mu)^(1/2) / 2 +- W/2,          X Y = mu,          mu -> 0

(Chen & Tseng 2003). The derivatives of these functions of W are products with divided differences in its
eigenbasis, 1/2 +- (w_i + w_j) / (2 r_i + 2 r_j), r = (w^2 + 4 mu)^(1/2), finite for equal eigenvalues too. It
converges where <X, B[X]> >= 0, B symmetric or not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.types import Scalar

Symmetric = Float[Array, "k k"]
Map = Float[Array, "k k k k"]

# Steps of Newton's method, in each of which mu falls by so much; shorter ones that are tried beside a whole.
STEPS, FALL = 30, 0.2
SHORTENED = tuple(2.0**-i for i in range(6))


def complementary(A: Symmetric, B: Map) -> tuple[Symmetric, Scalar]:
    """X, and ||A + B[X] - Y|| / ||A|| for the nearest Y that is complementary to X: about 0 for a solution.

    Where <X, B[X]> < 0 for some X there may be none; the distance says so.
    """
    size, scale = _positive(jnp.linalg.norm(A)), _positive(jnp.linalg.norm(B))
    A, B = A / size, symmetric(B) / scale
    smallest = jnp.finfo(A.dtype).eps

    def excess(W: Symmetric, mu: Scalar) -> Symmetric:
        X, Y = parts(W, mu)
        return Y - A - _times(B, X)

    def step(i: Array, W: Symmetric) -> Symmetric:
        mu = jnp.maximum(FALL ** i.astype(A.dtype), smallest**2)
        dW = newton_step(W, mu, B, excess(W, mu))
        tried = W[None] + jnp.asarray(SHORTENED, A.dtype)[:, None, None] * dW[None]
        return tried[jnp.argmin(jax.vmap(lambda W: jnp.linalg.norm(excess(W, mu)))(tried))]

    W = jax.lax.fori_loop(0, STEPS, step, -A)
    none = jnp.zeros((), A.dtype)
    return parts(W, none)[0] * size / scale, jnp.linalg.norm(excess(W, none))


def parts(W: Symmetric, mu: Scalar) -> tuple[Symmetric, Symmetric]:
    """X and Y."""
    w, V = jnp.linalg.eigh((W + W.T) / 2)
    r = jnp.sqrt(w**2 + 4 * mu)
    # The smaller of two numbers of the product mu, where their difference w is known.
    large = (r + jnp.abs(w)) / 2
    small = mu / _positive(large)
    x, y = jnp.where(w > 0, large, small), jnp.where(w > 0, small, large)
    return (V * x[None]) @ V.T, (V * y[None]) @ V.T


def newton_step(W: Symmetric, mu: Scalar, B: Map, excess: Symmetric) -> Symmetric:
    """dW with dY - B[dX] = -excess."""
    k = len(W)
    w, V = jnp.linalg.eigh((W + W.T) / 2)
    r = jnp.sqrt(w**2 + 4 * mu)
    share = (w[:, None] + w[None]) / (2 * (r[:, None] + r[None]))
    # In the eigenbasis, dX = (1/2 + share) dW and dY = -(1/2 - share) dW, entry by entry.
    turned = jnp.einsum("abcd,ai,bj,ck,dl->ijkl", B, V, V, V, V)
    one = jnp.eye(k * k, dtype=W.dtype)
    # What is not symmetric is none of B's, and would leave the matrix singular.
    skew = one - symmetric(one.reshape(k, k, k, k)).reshape(k * k, k * k)
    along = (turned * (0.5 + share)[None, None]).reshape(k * k, k * k)
    matrix = along + jnp.diag((0.5 - share).ravel()) + skew
    dW = jnp.linalg.solve(matrix, (V.T @ excess @ V).ravel()).reshape(k, k)
    return V @ dW @ V.T


def symmetric(B: Map) -> Map:
    """The same map on symmetric matrices; of other matrices it takes the symmetric part."""
    B = (B + B.transpose(1, 0, 2, 3)) / 2
    return (B + B.transpose(0, 1, 3, 2)) / 2


def _times(B: Map, X: Symmetric) -> Symmetric:
    return jnp.einsum("ijkl,kl->ij", B, X)


def _positive(x: Array) -> Array:
    return jnp.where(x > 0, x, jnp.ones_like(x))
