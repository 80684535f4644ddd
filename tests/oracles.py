"""The mathematics again, literally and slowly: double sums, dense Hessians, the whole history at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def pick(batches, b):
    return jax.tree.map(lambda x: x[b], batches)


@partial(jax.jit, static_argnums=0)
def gradients_and_hessians(loss, batches, theta):
    return [jax.vmap(f(loss), (None, 0))(theta, batches) for f in (jax.grad, jax.hessian)]


def equation_10(loss, batches, schedule, n, theta, h, beta, rho, eps, *, inside=True):
    """The right side of eq. (10), letter by letter; outside: with w = M / (sqrt(S) + eps) for M / R."""

    gradients, hessians = map(np.asarray, gradients_and_hessians(loss, batches, theta))

    def gradient(k):
        return gradients[schedule[k]]

    def hessian(k):
        return hessians[schedule[k]]

    def M(l):
        return sum(beta ** (l - k) * (1 - beta) * gradient(k) for k in range(l + 1)) / (1 - beta ** (l + 1))

    def S(l):
        return sum(rho ** (l - k) * (1 - rho) * gradient(k) ** 2 for k in range(l + 1)) / (1 - rho ** (l + 1))

    def R(l):
        return np.sqrt(S(l) + eps) if inside else np.sqrt(S(l))

    def denominator(l):
        return R(l) if inside else R(l) + eps

    def w(l):
        return M(l) / denominator(l)

    def u(k):
        return sum((w(l) for l in range(k, n)), np.zeros(theta.size))

    cb, cr = (1 - beta) / (1 - beta ** (n + 1)), (1 - rho) / (1 - rho ** (n + 1))
    L = cb * sum(beta ** (n - k) * hessian(k) @ u(k) for k in range(n + 1))
    L_bar = cb * sum(beta ** (n - k) * hessian(k) @ w(n) for k in range(n + 1))
    P = cr * sum(rho ** (n - k) * gradient(k) * (hessian(k) @ u(k)) for k in range(n + 1))
    P_bar = cr * sum(rho ** (n - k) * gradient(k) * (hessian(k) @ w(n)) for k in range(n + 1))
    second = M(n) * (2 * P + P_bar) / (2 * denominator(n) ** 2 * R(n)) - (2 * L + L_bar) / (
        2 * denominator(n)
    )
    return -w(n) + h * second


def frozen_updates_and_derivatives(optimizer, loss, batches, schedule, theta):
    """F^(n) and DF^(n)[v_0, .., v_n], a row for each step n of the schedule, of any optax optimizer of
    learning rate 1, from its own `update`."""

    def step(state, x):
        point, b = x
        with jax.numpy_dtype_promotion("standard"):
            u, state = optimizer.update(jax.grad(loss)(point, pick(batches, b)), state, point)
        return state, -u

    def updates(points):
        return jax.lax.scan(step, optimizer.init(theta), (points, schedule))[1]

    @jax.jit
    def rows():
        k = jnp.arange(len(schedule))
        still = jnp.broadcast_to(theta, (len(k), theta.size))
        F = updates(still)

        def derivative(n):
            between = ((k[:, None] <= k[None]) & (k[None] < n)).astype(float)
            # The points after step n, moved or not, are not seen by its update.
            v = between @ F + F[n][None] / 2
            return jax.jvp(updates, (still,), (v,))[1][n]

        return F, jax.vmap(derivative)(k)

    return rows()


@partial(jax.jit, static_argnums=0)
def remark_3_2(loss, n, theta, h, beta, rho, eps):
    """Eq. (10) with the terms of Remark 3.2, as printed."""

    def lag(b):
        return b / (1 - b) - (n + 1) * b ** (n + 1) / (1 - b ** (n + 1))

    g = jax.grad(loss)(theta)
    R = jnp.sqrt(g**2 + eps)
    L_bar = jax.grad(lambda t: jnp.sum(jnp.sqrt(jax.grad(loss)(t) ** 2 + eps)))(theta)
    L, P_bar = lag(beta) * L_bar, g * L_bar
    P = lag(rho) * P_bar
    return -g / R + h * (g * (2 * P + P_bar) / (2 * R**3) - (2 * L + L_bar) / (2 * R))
