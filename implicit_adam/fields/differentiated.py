"""The modified field of any optax transformation, by differentiating its own `update`.

The history is frozen at theta: step k sees the gradient grad E_k(theta) and the point theta. A first pass of
`update` over it gives every F^(l) and so the displacements v_k = sum_{l=k}^{n-1} F^(l) + c F^(n); a second
carries tangents, Hess E_k v_k into the gradient and v_k into the point of step k, and ends with DF^(n)[v].
One Hessian-vector product a step of the history, against r m for a rule given by features and kernels, and no
assumption on the transformation but that it is differentiable.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.fields.expansion import Expansion, Expansions
from implicit_adam.objective import Gradients, Objective
from implicit_adam.rules.optax_rule import Optax, raveled
from implicit_adam.types import StepNumber, Vector

State = Any


def differentiated(rule: Optax, objective: Objective) -> Expansions:
    """Exact for every differentiable transformation, but for the `window` of the rule."""
    tx = raveled(rule.tx, objective.unravel)

    def start(first: StepNumber, theta: Vector) -> State:
        def begun(x: Any) -> Any:
            return x + jnp.asarray(first, x.dtype) if _is_counter(x) else x

        return jax.tree.map(begun, tx.init(theta))

    def step(state: State, g: Vector, theta: Vector) -> tuple[Vector, State]:
        updates, state = tx.update(g, state, theta)
        return -jnp.asarray(updates), state

    def at(n: StepNumber) -> Expansion:
        first = _first_seen(rule, n)

        def frozen(theta: Vector, G: Gradients) -> tuple[Vector, Vector]:
            """F^(n), and the sum of the F^(l) before it."""

            def advance(k: StepNumber, carry: tuple[State, Vector]) -> tuple[State, Vector]:
                state, total = carry
                F, state = step(state, objective.of_step(G, k), theta)
                return state, total + F

            state, total = jax.lax.fori_loop(first, n, advance, (start(first, theta), jnp.zeros_like(theta)))
            return step(state, objective.of_step(G, n), theta)[0], total

        def update(theta: Vector) -> Vector:
            return frozen(theta, objective.gradients(theta))[0]

        def derivative(theta: Vector, present: float) -> tuple[Vector, Vector]:
            F_n, total = frozen(theta, objective.gradients(theta))

            def tangent_step(k: StepNumber, state: State, state_dot: State, v: Vector) -> Any:
                g, g_dot = objective.step_gradient_along(theta, k, v)
                return _jvp_of_step(step, state, state_dot, (g, theta), (g_dot, v))

            def advance(k: StepNumber, carry: Any) -> Any:
                state, state_dot, v = carry
                F, _, state, state_dot = tangent_step(k, state, state_dot, v)
                return state, state_dot, v - F

            v = total + present * F_n
            state, state_dot = _jvp_of_start(lambda theta: start(first, theta), theta, v)
            state, state_dot, _ = jax.lax.fori_loop(first, n, advance, (state, state_dot, v))
            F, DF, _, _ = tangent_step(n, state, state_dot, present * F_n)
            return F, DF

        return Expansion(update, derivative)

    return at


def _first_seen(rule: Optax, n: StepNumber) -> StepNumber:
    """The first step that the window still sees."""
    if rule.window is None:
        return 0
    return max(n - rule.window, 0) if isinstance(n, int) else jnp.maximum(n - rule.window, 0)


def _is_counter(x: Any) -> bool:
    return eqx.is_array(x) and x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer)


def _jvp_of_start(start: Any, theta: Vector, v: Vector) -> tuple[State, State]:
    """The optimizer's first state and its tangent; counters and keys have none."""

    def differentiable(theta: Vector) -> tuple[State, State]:
        return eqx.partition(start(theta), eqx.is_inexact_array)

    moving, moving_dot, still = jax.jvp(differentiable, (theta,), (v,), has_aux=True)
    return eqx.combine(moving, still), moving_dot


def _jvp_of_step(
    step: Any, state: State, state_dot: State, primals: tuple[Vector, Vector], tangents: tuple[Vector, Vector]
) -> tuple[Vector, Vector, State, State]:
    """F, its tangent, the next state and its tangent."""
    moving, still = eqx.partition(state, eqx.is_inexact_array)

    def differentiable(moving: State, g: Vector, theta: Vector) -> Any:
        F, state = step(eqx.combine(moving, still), g, theta)
        moving, still_next = eqx.partition(state, eqx.is_inexact_array)
        return (F, moving), still_next

    (F, moving), (F_dot, moving_dot), still = jax.jvp(
        differentiable, (moving, *primals), (state_dot, *tangents), has_aux=True
    )
    return F, F_dot, eqx.combine(moving, still), moving_dot
