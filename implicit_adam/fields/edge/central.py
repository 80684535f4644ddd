"""The central flow: the mean path of iterates that oscillate at the edge of stability, and their covariance.

Cohen, Damian, Talwalkar, Kolter & Lee (arXiv:2410.24206) write theta_n = c + delta_n, the oscillation of
mean zero and covariance Sigma. In the mean over it, to second order, with H = Hess E,

    mean gradient = grad E + (1/2) D^3 E[Sigma],     covariance of the gradient = H Sigma H
    psi -> psi(mean gradient) + (1/2) psi''(grad E) diag(H Sigma H)

so that a memory of squares holds the square of the mean gradient and the variance. delta_n itself is not
computed: Sigma is what keeps the optimizer from crossing its edge. With chi the threshold of stability, R
the update's denominator, u_1 .. u_k the top eigenvectors of R^-1 H, u_i . R u_j = delta_ij, and
Sigma = sum_ij X_ij u_i u_j^T,

    slack_ij = delta_ij - u_i . H u_j / chi,       X >= 0 and slack + tau slack'(X) >= 0 complementary
    slack'(X)_ij = u_i . R' u_j - D^3 E[u_i, u_j, c'] / chi        per step,

R' and c' are linear in X, except for the square of the mean gradient, which is expanded about the last X.

The paper has the covariance, its two effects and the complementarity, for gradient descent and RMSProp:
chi = 2/h, and tau is the step of its integration. New here, as far as we know:

- rules with a memory of the gradient, such as Adam, with their own chi, for Adam 2 (1+beta) / ((1-beta) h);
- this memory is a state, through which Sigma changes c' only with a delay. So slack' is computed with a
  settled memory, c' = -h readout(mean gradient), and the slack decays with the time constant
  tau = 1 + 4 (mean lag of the memory); with a shorter one it would oscillate. Without a memory it is 1;
- the square of the mean gradient, where the paper has that of grad E, a difference of the order of Sigma (on
  a network of 610 weights RMSProp's centre is off by 1.05% and not 1.38% of the distance after 1000 steps);
- c and the memories obey the equation with carried memory (`carried.carrier`), correct to O(h^2) below the
  edge, where the paper's flow has an error of O(h).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.eigenpairs import Rows, largest_eigenpairs
from implicit_adam.fields.carried.carrier import Carrier, Features, Memory
from implicit_adam.fields.carried.rule_carrier import held
from implicit_adam.fields.edge.complementarity import Symmetric, complementary
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.feature_sums import read
from implicit_adam.rules.linear import denominator, linear_features
from implicit_adam.types import Scalar, Vector


class Edge(NamedTuple):
    """An optimizer, its threshold chi, and the time constant tau of its slack, in steps."""

    rule: AbstractRule
    objective: Objective
    carrier: Carrier
    threshold: Scalar
    settling: Scalar


class Oscillation(NamedTuple):
    """The directions in which iterates oscillate, and the covariance in them.

    - `directions`: (k, p) u_i; `images`: (k, p) H u_i; `third`: (k, k, p) D^3 E[u_i, u_j].
    - `X`: (k, k).
    """

    directions: Rows
    images: Rows
    third: Float[Array, "k k p"]
    X: Symmetric

    def mean_features(self, rule: AbstractRule, g: Vector) -> Features:
        """psi averaged over the oscillation; g is the gradient at the centre."""
        mean = g + jnp.einsum("ij,ijp->p", self.X, self.third) / 2
        variance = jnp.einsum("ij,ip,jp->p", self.X, self.images, self.images)
        return jax.tree.map(
            lambda psi, bend: psi + bend * variance / 2, rule.features(mean), second_derivative(rule, g)
        )

    def curvature(self) -> Symmetric:
        """The diagonal of u_i . H u_j, largest first: the eigenvalues of R^-1/2 H R^-1/2."""
        return self.directions @ self.images.T

    def more_loss(self) -> Scalar:
        """<H, Sigma> / 2: the mean loss over the oscillation minus the loss at the centre."""
        return jnp.sum(self.X * self.curvature()) / 2


def second_derivative(rule: AbstractRule, g: Vector) -> Features:
    """psi'' at g, elementwise."""
    one = jnp.ones_like(g)

    def slope(g: Vector) -> Features:
        return jax.jvp(rule.features, (g,), (one,))[1]

    return jax.jvp(slope, (g,), (one,))[1]


def mean_over(oscillation: Oscillation, edge: Edge) -> Carrier:
    """The carrier of the optimizer averaged over the oscillation."""
    rule, objective = edge.rule, edge.objective
    return edge.carrier._replace(
        gradients=lambda c: oscillation.mean_features(rule, objective.gradients(c)[0])
    )


def denominator_at(rule: AbstractRule, tau: Scalar, c: Vector, memory: Memory, psi: Features) -> Vector:
    """The denominator R of the memory at tau, that is after step n = tau - 1."""
    kernels = rule.kernels(tau - 1)
    return denominator(rule, read(kernels, held(kernels, memory, psi)), c, tau - 1)


def turned(
    old: Oscillation, edge: Edge, tau: Scalar, c: Vector, memory: Memory, starts: Rows, iterations: int
) -> Oscillation:
    """The `Oscillation` at a new c: its top directions, searched from the old ones, and the old X in them."""
    g, products = edge.objective.linearize(c)
    R = denominator_at(edge.rule, tau, c, memory, edge.rule.features(g[0]))
    scale = 1 / jnp.sqrt(R)

    def H(v: Vector) -> Vector:
        return products(v[None])[0]

    _, V, _ = largest_eigenpairs(
        lambda v: scale * H(scale * v),
        starts / scale[None],
        jax.random.normal(jax.random.key(0), c.shape, c.dtype),
        len(old.X),
        iterations,
    )
    directions = scale[None] * V
    turn = (directions * R[None]) @ old.directions.T
    third = third_derivatives(edge.objective, c, directions)
    return Oscillation(directions, jax.lax.map(H, directions), third, turn @ old.X @ turn.T)


def third_derivatives(objective: Objective, c: Vector, directions: Rows) -> Float[Array, "k k p"]:
    """D^3 E[u_i, u_j]."""
    k = len(directions)
    i, j = jnp.triu_indices(k)

    def one(pair: tuple[Vector, Vector]) -> Vector:
        u, v = pair

        def along(c: Vector) -> Vector:
            return jax.jvp(lambda c: objective.gradients(c)[0], (c,), (u,))[1]

        return jax.jvp(along, (c,), (v,))[1]

    T = jax.lax.map(one, (directions[i], directions[j]))
    return jnp.zeros((k, k, c.size), c.dtype).at[i, j].set(T).at[j, i].set(T)


def slack_rate(
    oscillation: Oscillation, edge: Edge, tau: Scalar, c: Vector, memory: Memory, g: Vector
) -> Symmetric:
    """slack'(X), per step."""
    rule, carrier = edge.rule, edge.carrier
    psi = oscillation.mean_features(rule, g)
    memory_dot = carrier.rate(memory, psi, jax.tree.map(jnp.zeros_like, psi))
    _, R_dot = jax.jvp(
        lambda tau, memory: denominator_at(rule, tau, c, memory, psi),
        (tau, memory),
        (jnp.ones_like(tau), memory_dot),
    )
    settled = with_settled(linear_features(rule) != 0, psi, memory)
    c_dot = -carrier.read(tau - 1, c, psi, settled, settled)
    u = oscillation.directions
    return jnp.einsum("ip,p,jp->ij", u, R_dot, u) - oscillation.third @ c_dot / edge.threshold


def with_covariance(
    oscillation: Oscillation, edge: Edge, tau: Scalar, c: Vector, memory: Memory, g: Vector
) -> tuple[Oscillation, Scalar]:
    """The oscillation with the X of the complementarity problem, and how far X is from solving it."""
    before, one = oscillation.X, jnp.eye(len(oscillation.X), dtype=c.dtype)

    def rate(X: Symmetric) -> Symmetric:
        return slack_rate(oscillation._replace(X=X), edge, tau, c, memory, g)

    B: Any = jax.jacfwd(rate)(before)
    slack = one - oscillation.curvature() / edge.threshold
    A = slack + edge.settling * (rate(before) - jnp.einsum("ijkl,kl->ij", B, before))
    X, distance = complementary((A + A.T) / 2, edge.settling * B)
    return oscillation._replace(X=X), distance


def with_settled(linear: Any, psi: Features, memory: Memory) -> Memory:
    """The memory, where the memories of linear features are replaced by settled ones."""
    return tuple(
        tuple(None if S is None else jnp.where(is_linear, x, S) for S in row)
        for is_linear, x, row in zip(linear, psi, memory, strict=True)
    )
