"""The modified field of mini-batch training: Theorem 3.1, eq. (10), for every rule and schedule.

Let w_i(l, b) = sum_{k<=l, k in b} w_i(l, k) be the weight of mini-batch b in the memory of step l. The
update of step l frozen at theta, and the derivative of the update of step n along the lagged displacements
v_k = sum_{l=k}^{n-1} F^(l) + c F^(n), c = 1/2 for the flow, are

    s_i^(l) = sum_b w_i(l, b) psi_i(g_b),           F^(l) = phi(s^(l), theta)
    a_{i,b} = sum_{k in b} w_i(n, k) v_k = sum_{l<n} u_i(n, l, b) F^(l) + c w_i(n, b) F^(n)
    u_i(n, l, b) = sum_{k<=l, k in b} w_i(n, k)
    DF[v] = sum_i dphi/ds_i sum_b psi_i'(g_b) (Hess E_b a_{i,b}) + c dphi/dtheta F^(n)

An evaluation costs m gradients (2 m if m > 4, see `linearized`) and r m Hessian-vector products, however
large n is. The sum over l takes every step that the memory still holds (`history_sum`); under the cyclic
schedule, and if full-batch updates would be the same at every step, a few rows replace it
(`cyclic_schedule`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from implicit_adam.fields.full_batch.closed_form import has_closed_form
from implicit_adam.fields.mini_batch.cyclic_schedule import few_rows
from implicit_adam.fields.mini_batch.history_sum import Features, every_step, matmul, memory_of
from implicit_adam.fields.series import Series
from implicit_adam.fields.terms import Terms
from implicit_adam.loops import scanned_sum
from implicit_adam.objective import AT_ONCE, Gradients, Objective
from implicit_adam.rules.kernels import HasKernels
from implicit_adam.types import StepNumber, Vector


def mini_batch_terms(rule: HasKernels, objective: Objective, order: int, *, flow: bool) -> Terms:
    """The terms for any number of losses and any schedule, up to order 1."""
    memory = memory_of(rule, objective)
    periodic = objective.schedule is None and has_closed_form(rule)
    c = 1 / 2 if flow else 0.0

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        w = memory.weights(n)

        def frozen(G: Gradients, theta: Vector) -> tuple[tuple[Vector, ...], Vector]:
            """The memories s, and F^(n)."""
            s = tuple(matmul(w_i, psi_i) for w_i, psi_i in zip(w, rule.features(G), strict=True))
            return s, rule.readout(s, theta, n)

        def leading(theta: Vector) -> Series:
            return (frozen(objective.gradients(theta), theta)[1],)

        def corrected(theta: Vector) -> Series:
            G, rates = linearized(rule, objective, theta)
            s, F = frozen(G, theta)
            s_dot = rates(add_past(G, theta, c * w[..., None] * F[None, None]))
            return jax.jvp(lambda s, theta: rule.readout(s, theta, n), (s, theta), (s_dot, c * F))

        if order == 0:
            return leading
        add_past = few_rows(memory, n, objective.m) if periodic else every_step(memory, n)
        return corrected

    return at


def linearized(
    rule: HasKernels, objective: Objective, theta: Vector
) -> tuple[Gradients, Callable[[Features], tuple[Vector, ...]]]:
    """All gradients, and a -> sum_b psi_i'(g_b) Hess E_b a_{i,b} for each feature i.

    What is kept between the two is for one piece of the mini-batches at a time; with several pieces their
    gradients are computed again, unless products are shifted.
    """
    if objective.m <= AT_ONCE:
        G, hessian_products = objective.linearize(theta)
        return G, lambda a: _rates(rule, G, hessian_products, a)

    G = objective.gradients(theta)

    def rates(a: Features) -> tuple[Vector, ...]:
        def of_piece(i: StepNumber) -> tuple[Vector, ...]:
            linear = objective.piece(i).linearize(theta, objective.of_piece(i, G))
            return _rates(rule, *linear, objective.of_piece(i, a, axis=1))

        return scanned_sum(of_piece, objective.pieces)

    return G, rates


def _rates(
    rule: HasKernels, G: Gradients, hessian_products: Callable[[Gradients], Gradients], a: Features
) -> tuple[Vector, ...]:
    every_batch = jnp.ones(len(G), G.dtype)
    # One feature at a time, and sums over the batches as matrix products: much faster on a CPU.
    return tuple(
        matmul(every_batch, jax.jvp(rule.features, (G,), (hessian_products(a_i),))[1][i])
        for i, a_i in enumerate(a)
    )
