"""Adam's stochastic differential equation (Malladi et al. 2022), averaged over its paths.

With the memories M of the gradient and V of its square as states, g the gradient of the mean loss and Sigma
the covariance of the mini-batches' gradients,

    d theta = -M_hat / (sqrt(V_hat) + eps) dt,    dM = (1-beta)/h ((g - M) dt + sqrt(h) Sigma^(1/2) dW),
    dV = (1-rho)/h (g^2 + diag Sigma - V) dt

with hats as in Adam. Malladi et al. take the limit of large noise, which leaves g^2 out of V. It is solved by
the Euler-Maruyama method in steps of h, which is the optimizer itself with normal noise in place of a
mini-batch's.
"""

from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.objective import Objective
from implicit_adam.rules import Adam
from implicit_adam.types import StepNumber, Vector

State = tuple[Vector, Vector, Vector]


def mean_path(rule: Adam, objective: Objective, theta: Vector, saves: int, every: int, paths: int) -> Any:
    """The mean (saves + 1, p) over `paths` paths, at the start and after every `every` steps."""
    keys = jax.random.split(jax.random.key(0), paths)
    # One path after the other, since the gradients of all mini-batches need memory.
    return jnp.mean(jax.lax.map(lambda key: _path(rule, objective, theta, saves, every, key), keys), axis=0)


def _path(rule: Adam, objective: Objective, theta: Vector, saves: int, every: int, key: Any) -> Any:
    def until_saved(state: State, i: Any) -> tuple[State, Vector]:
        def step(j: Any, state: State) -> State:
            n = i * every + j
            return _step(rule, objective, state, n, jax.random.fold_in(key, n))

        state = jax.lax.fori_loop(0, every, step, state)
        return state, state[0]

    begin = (theta, jnp.zeros_like(theta), jnp.zeros_like(theta))
    points = jax.lax.scan(until_saved, begin, jnp.arange(saves))[1]
    return jnp.concatenate([theta[None], points])


def _step(rule: Adam, objective: Objective, state: State, n: StepNumber, key: Any) -> State:
    theta, M, V = state
    G = objective.gradients(theta)
    g = jnp.mean(G, axis=0)
    noise = jax.random.normal(key, (len(G),), G.dtype) @ (G - g[None]) / len(G) ** 0.5
    M = M + (1 - rule.beta) * (g + noise - M)
    V = V + (1 - rule.rho) * (jnp.mean(G**2, axis=0) - V)
    steps = jnp.asarray(n + 1, theta.dtype)
    M_hat, V_hat = M / (1 - rule.beta**steps), V / (1 - rule.rho**steps)
    return theta - rule.h * M_hat / (jnp.sqrt(V_hat) + rule.eps), M, V
