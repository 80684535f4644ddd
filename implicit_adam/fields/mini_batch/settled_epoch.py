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

All a_b are in the span of the F_c', so that an evaluation costs 2m gradients and m^2 Hessian-vector products
Hess E_b F_c', whatever r is; solvers can take steps of many epochs. In memory are some 16 m vectors,
and the activations of one piece of the mini-batches (`objective.AT_ONCE`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.fields.mini_batch.history_sum import Features, matmul
from implicit_adam.loops import scanned_sum
from implicit_adam.objective import Gradients, Objective
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
    present = _present(phases).astype(w.dtype)
    usage = jnp.swapaxes(u, 2, 3) + w[..., None] * present[None, :, None]

    def remembered(psi: Features, c: Int[Array, ""]) -> tuple[Vector, ...]:
        return tuple(matmul(w_i[c], psi_i) for w_i, psi_i in zip(w, psi, strict=True))

    def updates(psi: Features, theta: Vector) -> Float[Array, "m p"]:
        return jax.lax.map(lambda c: rule.readout(remembered(psi, c), theta, jnp.inf), phases)

    def leading(theta: Vector) -> Vector:
        psi = jnp.stack(rule.features(objective.gradients(theta)))
        return -jnp.mean(updates(psi, theta), axis=0)

    def corrected(theta: Vector) -> Vector:
        G = objective.gradients(theta)
        psi = jnp.stack(rule.features(G))
        F = updates(psi, theta)
        s_dot = _rates(rule, objective, theta, G, F, usage)

        def derivative(c: Int[Array, ""]) -> Vector:
            def readout(s: tuple[Vector, ...], theta: Vector) -> Vector:
                return rule.readout(s, theta, jnp.inf)

            point, along = (remembered(psi, c), theta), (tuple(s_dot[:, c]), matmul(present[c], F))
            return jax.jvp(readout, point, along)[1]

        return -jnp.mean(F + rule.h * jax.lax.map(derivative, phases), axis=0)

    return (leading, corrected)[order]


def _rates(
    rule: AbstractRule,
    objective: Objective,
    theta: Vector,
    G: Gradients,
    F: Float[Array, "m p"],
    usage: Float[Array, "r m m m"],
) -> Float[Array, "r m p"]:
    """sum_b psi_i'(g_b) Hess E_b sum_c' usage_i(c, b, c') F_c' for each feature i and phase c."""

    def of_piece(i: StepNumber) -> Float[Array, "r m p"]:
        here, A = objective.of_piece(i, G), objective.of_piece(i, usage, axis=2)
        _, products = objective.piece(i).linearize(theta, here)
        HF = jax.lax.map(lambda F_c: products(jnp.broadcast_to(F_c, here.shape)), F)
        slopes = jnp.stack(jax.jvp(rule.features, (here,), (jnp.ones_like(here),))[1])
        of_batches = jnp.swapaxes(slopes, 0, 1), jnp.moveaxis(A, 2, 0), jnp.swapaxes(HF, 0, 1)
        return scanned_sum(lambda x: x[0][:, None] * matmul(x[1], x[2]), of_batches)

    return scanned_sum(of_piece, objective.pieces)


def settling_steps(rule: AbstractRule, m: int, tolerance: Scalar) -> StepNumber:
    """The first end of an epoch at which every memory has forgotten its start up to the tolerance."""
    decay = jnp.concatenate([kernel.decay for kernel in rule.kernels(jnp.inf)])
    slowest = jnp.maximum(jnp.max(decay), jnp.asarray(0.5, decay.dtype))
    return m * jnp.ceil(jnp.log(tolerance) / jnp.log(slowest) / m).astype(int)


def _present(c: Int[Array, " m"]) -> Float[Array, "m m"]:
    """The coefficients of F_c' in F_c/2 + (S_{>c} - S_{<c})/2."""
    return jnp.where(c[None] >= c[:, None], 0.5, -0.5)


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
