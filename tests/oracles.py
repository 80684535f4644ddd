"""The mathematics again, literally and slowly: double sums, dense Hessians, the whole history at once."""

import jax
import jax.numpy as jnp


def pick(batches, b):
    return jax.tree.map(lambda x: x[b], batches)


def equation_10(loss, batches, schedule, n, theta, h, beta, rho, eps, *, inside=True):
    """The right side of eq. (10), letter by letter; outside: with w = M / (sqrt(S) + eps) for M / R."""

    gradients = jax.vmap(jax.grad(loss), (None, 0))(theta, batches)
    hessians = jax.vmap(jax.hessian(loss), (None, 0))(theta, batches)

    def gradient(k):
        return gradients[schedule[k]]

    def hessian(k):
        return hessians[schedule[k]]

    def M(l):
        return sum(beta ** (l - k) * (1 - beta) * gradient(k) for k in range(l + 1)) / (1 - beta ** (l + 1))

    def S(l):
        return sum(rho ** (l - k) * (1 - rho) * gradient(k) ** 2 for k in range(l + 1)) / (1 - rho ** (l + 1))

    def R(l):
        return jnp.sqrt(S(l) + eps) if inside else jnp.sqrt(S(l))

    def denominator(l):
        return R(l) if inside else R(l) + eps

    def w(l):
        return M(l) / denominator(l)

    def u(k):
        return sum((w(l) for l in range(k, n)), jnp.zeros_like(theta))

    cb, cr = (1 - beta) / (1 - beta ** (n + 1)), (1 - rho) / (1 - rho ** (n + 1))
    L = cb * sum(beta ** (n - k) * hessian(k) @ u(k) for k in range(n + 1))
    L_bar = cb * sum(beta ** (n - k) * hessian(k) @ w(n) for k in range(n + 1))
    P = cr * sum(rho ** (n - k) * gradient(k) * (hessian(k) @ u(k)) for k in range(n + 1))
    P_bar = cr * sum(rho ** (n - k) * gradient(k) * (hessian(k) @ w(n)) for k in range(n + 1))
    second = M(n) * (2 * P + P_bar) / (2 * denominator(n) ** 2 * R(n)) - (2 * L + L_bar) / (
        2 * denominator(n)
    )
    return -w(n) + h * second


def frozen_update_and_derivative(optimizer, loss, batches, schedule, n, theta):
    """F^(n) and DF^(n)[v_0, .., v_n] of any optax optimizer of learning rate 1, from its own `update`."""

    def update(points):
        state, u = optimizer.init(theta), None
        with jax.numpy_dtype_promotion("standard"):
            for k in range(points.shape[0]):
                g = jax.grad(loss)(points[k], pick(batches, schedule[k]))
                u, state = optimizer.update(g, state, points[k])
        return -u

    F = [update(jnp.broadcast_to(theta, (l + 1, theta.size))) for l in range(n + 1)]
    v = jnp.stack([sum(F[k:n], jnp.zeros_like(theta)) + F[n] / 2 for k in range(n + 1)])
    return jax.jvp(update, (jnp.broadcast_to(theta, (n + 1, theta.size)),), (v,))


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
