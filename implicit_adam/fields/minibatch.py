"""The modified field of mini-batch training: Theorem 3.1, eq. (10), for every rule and schedule.

Let w_i(l, b) = sum_{k<=l, k in b} w_i(l, k) be the weight of mini-batch b in the memory of step l. The
update of step l frozen at theta, and the derivative of the update of step n along the lagged displacements
v_k = sum_{l=k}^{n-1} F^(l) + c F^(n), c = 1/2 for the flow, are

    s_i^(l) = sum_b w_i(l, b) psi_i(g_b),           F^(l) = phi(s^(l), theta)
    a_{i,b} = sum_{k in b} w_i(n, k) v_k = sum_{l<n} u_i(n, l, b) F^(l) + c w_i(n, b) F^(n)
    u_i(n, l, b) = sum_{k<=l, k in b} w_i(n, k)
    DF[v] = sum_i dphi/ds_i sum_b psi_i'(g_b) (Hess E_b a_{i,b}) + c dphi/dtheta F^(n)

m gradients and r m Hessian-vector products, however large n is. The sum over l is two matrix products with
the readout between them; it runs backwards from n in bounded chunks and stops where the largest decay has
fallen below the rounding of the dtype, since later terms could not change the result.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.fields.expansion import Expansion
from implicit_adam.fields.visits import discounted_visits
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.kernels import Kernel, at_lag
from implicit_adam.types import Scalar, StepNumber, Vector

Weights = Float[Array, "r m"]
Features = Float[Array, "r m p"]


def minibatch(rule: AbstractRule, objective: Objective) -> Expansion:
    """Any number of losses, any schedule."""
    visits = [discounted_visits(objective.schedule, objective.m, kernel.decay) for kernel in rule.kernels(0)]

    def weights(l: StepNumber) -> Weights:
        """w_i(l, b)."""
        return jnp.stack(
            [_matmul(kernel.scale, A(l)) for kernel, A in zip(rule.kernels(l), visits, strict=True)]
        )

    def partial_weights(n: StepNumber, l: StepNumber) -> Weights:
        """u_i(n, l, b): what step n remembers of the visits up to step l."""
        return jnp.stack(
            [_matmul(at_lag(kernel, n - l), A(l)) for kernel, A in zip(rule.kernels(n), visits, strict=True)]
        )

    def frozen_update(psi: Features, theta: Vector, l: StepNumber) -> Vector:
        """F^(l)."""
        return rule.readout(_contract(weights(l), psi), theta, l)

    def update(n: StepNumber, theta: Vector) -> Vector:
        psi = jnp.stack(rule.features(objective.gradients(theta)))
        return frozen_update(psi, theta, n)

    def derivative(n: StepNumber, theta: Vector, present: float) -> tuple[Vector, Vector]:
        G, hessian_products = objective.linearize(theta)
        psi = jnp.stack(rule.features(G))
        s, F = _contract(weights(n), psi), frozen_update(psi, theta, n)

        def past(l: Int[Array, ""]) -> tuple[Weights, Vector]:
            return partial_weights(n, l), frozen_update(psi, theta, l)

        a = present * weights(n)[..., None] * F[None, None] + _sum_over_past(past, n, rule.kernels(n), psi)
        H_a = jax.vmap(hessian_products)(a)
        s_dot = tuple(
            jnp.sum(jax.jvp(rule.features, (G,), (dot,))[1][i], axis=0) for i, dot in enumerate(H_a)
        )
        return jax.jvp(lambda s, theta: rule.readout(s, theta, n), (s, theta), (s_dot, present * F))

    return Expansion(update, derivative)


def _contract(w: Weights, psi: Features) -> tuple[Vector, ...]:
    """s_i = sum_b w_i(b) psi_i(g_b)."""
    return tuple(_matmul(w_i, psi_i) for w_i, psi_i in zip(w, psi, strict=True))


def _sum_over_past(
    past: Callable[[Int[Array, ""]], tuple[Weights, Vector]],
    n: StepNumber,
    kernels: tuple[Kernel, ...],
    psi: Features,
) -> Features:
    """sum_{l<n} u(n, l) F^(l), from l = n-1 backwards."""
    r, m, p = psi.shape
    chunk = max(1, min(128, 2**18 // p))

    def add_chunk(i: Int[Array, ""], a: Features) -> Features:
        l = n - 1 - i * chunk - jnp.arange(chunk)
        u, F = jax.vmap(past)(jnp.maximum(l, 0))
        u = jnp.where((l >= 0)[:, None, None], u, jnp.zeros_like(u))
        return a + _matmul(u.reshape(chunk, r * m).T, F).reshape(r, m, p)

    return jax.lax.fori_loop(0, _chunks(n, kernels, chunk), add_chunk, jnp.zeros_like(psi))


def _chunks(n: StepNumber, kernels: tuple[Kernel, ...], chunk: int) -> StepNumber:
    """How many chunks hold the past of step n, or its window; static, hence reversible, for a static n."""
    if isinstance(n, int):
        return -(-n // chunk)
    window = jnp.minimum(jnp.asarray(n).astype(float), _window(kernels).astype(float))
    return jnp.ceil(window / chunk).astype(int)


def _window(kernels: tuple[Kernel, ...]) -> Scalar:
    """The lag beyond which decay^lag < eps of the dtype: all of the tail is below rounding there."""
    slowest = jnp.max(jnp.concatenate([kernel.decay for kernel in kernels]))
    lag = jnp.log(jnp.finfo(slowest.dtype).eps) / jnp.log(slowest)
    return jnp.where(slowest < 1, lag, jnp.inf)


def _matmul(x: Array, y: Array) -> Array:
    # Accelerators would round the factors to bfloat16 or TF32, which is coarser than the correction itself.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
