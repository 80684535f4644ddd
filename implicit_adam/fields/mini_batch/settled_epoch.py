"""One field for a whole epoch of cyclic mini-batches, once the memory has settled.

Under the cyclic schedule the weights of late steps depend only on their phase c = n mod m, so the field is
m-periodic. The flows of the phases one after the other, exp(h f_{m-1}) .. exp(h f_0), are one flow over the
time mh along (Baker, Campbell, Hausdorff)

    f = (1/m) [ sum_c f_c + (h/2) sum_{i<j} (f_j' f_i - f_i' f_j) ] + O(h^2)

With f_c = -F_c - h DF_c[v] the commutators are DF_c in one more direction, the same for every point of the
history: seen from the middle of the epoch, step c is displaced by (S_{>c} - S_{<c})/2, in units of h,

    f = -(1/m) sum_c ( F_c + h DF_c[v'] ),    v'_k = sum_{l=k}^{n-1} F^(l) + F_c/2 + (S_{>c} - S_{<c})/2
    S_{<c} = sum_{i<c} F_i,    S_{>c} = sum_{i>c} F_i

All sums over the history are geometric. With d the decay of each exponential and s the lag of the last c'
before c,

    w(c, b)     = scale d^((c-b) mod m) / (1-d^m)
    u(c, c', b) = scale d^((c'-b) mod m + s) / (1-d^m)^2,      s = (c-c'-1) mod m + 1
    a_b = sum_c' u(c, c', b) F_c' + w(c, b) (F_c/2 + (S_{>c} - S_{<c})/2)

An evaluation costs m gradients and r m^2 Hessian-vector products; solvers can take steps of many epochs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.fields.mini_batch.history_sum import Features, matmul
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.kernels import Kernel, one_minus_power, power
from implicit_adam.types import Scalar, StepNumber, Vector, Velocity


def epoch_velocity(rule: AbstractRule, objective: Objective, order: int) -> Velocity:
    """theta -> f(theta), whose flow agrees with the settled flow at the ends of epochs to O(h^(order+1))."""
    m = objective.m
    kernels = rule.kernels(jnp.inf)
    phases = jnp.arange(m)
    w = jnp.stack([_settled_weights(kernel, m) for kernel in kernels])
    u = jnp.stack([_settled_usage(kernel, m) for kernel in kernels])

    def remembered(psi: Features, c: Int[Array, ""]) -> tuple[Vector, ...]:
        return tuple(matmul(w_i[c], psi_i) for w_i, psi_i in zip(w, psi, strict=True))

    def updates(psi: Features, theta: Vector) -> Float[Array, "m p"]:
        return jax.lax.map(lambda c: rule.readout(remembered(psi, c), theta, jnp.inf), phases)

    def leading(theta: Vector) -> Vector:
        psi = jnp.stack(rule.features(objective.gradients(theta)))
        return -jnp.mean(updates(psi, theta), axis=0)

    def corrected(theta: Vector) -> Vector:
        G, hessian_products = objective.linearize(theta)
        psi = jnp.stack(rule.features(G))
        F = updates(psi, theta)
        before = jnp.cumsum(F, axis=0)
        ahead = before[-1][None] - before
        present = (F + ahead - (before - F)) / 2
        every_batch = jnp.ones(m, G.dtype)

        def derivative(c: Int[Array, ""]) -> Vector:
            s_dot = []
            for i in range(len(kernels)):
                a = matmul(u[i, c].T, F) + w[i, c][:, None] * present[c][None]
                psi_dot = jax.jvp(rule.features, (G,), (hessian_products(a),))[1][i]
                s_dot.append(matmul(every_batch, psi_dot))

            def readout(s: tuple[Vector, ...], theta: Vector) -> Vector:
                return rule.readout(s, theta, jnp.inf)

            return jax.jvp(readout, (remembered(psi, c), theta), (tuple(s_dot), present[c]))[1]

        return -jnp.mean(F + rule.h * jax.lax.map(derivative, phases), axis=0)

    return (leading, corrected)[order]


def settling_steps(rule: AbstractRule, m: int, tolerance: Scalar) -> StepNumber:
    """The first end of an epoch at which every memory has forgotten its start up to the tolerance."""
    decay = jnp.concatenate([kernel.decay for kernel in rule.kernels(jnp.inf)])
    slowest = jnp.maximum(jnp.max(decay), jnp.asarray(0.5, decay.dtype))
    return m * jnp.ceil(jnp.log(tolerance) / jnp.log(slowest) / m).astype(int)


def _settled_weights(kernel: Kernel, m: int) -> Float[Array, "m m"]:
    """w(c, b)."""
    c, b = jnp.arange(m)[:, None], jnp.arange(m)[None]
    return _sum_of_exponentials(kernel, (c - b) % m, kernel.scale / one_minus_power(kernel.decay, m))


def _settled_usage(kernel: Kernel, m: int) -> Float[Array, "m m m"]:
    """u(c, c', b)."""
    c, before, b = jnp.arange(m)[:, None, None], jnp.arange(m)[None, :, None], jnp.arange(m)[None, None]
    lag = (before - b) % m + (c - before - 1) % m + 1
    return _sum_of_exponentials(kernel, lag, kernel.scale / one_minus_power(kernel.decay, m) ** 2)


def _sum_of_exponentials(
    kernel: Kernel, lag: Int[Array, "*shape"], scale: Float[Array, " terms"]
) -> Float[Array, "*shape"]:
    def term(scale: Scalar, decay: Scalar) -> Float[Array, "*shape"]:
        return scale * jax.vmap(lambda lag: power(decay, lag))(lag.ravel()).reshape(lag.shape)

    return jnp.sum(jax.vmap(term)(scale, kernel.decay), axis=0)
