"""Is h small, is the memory short, is the loss smooth? Measured on the optimizer's own run.

None of it asks a corrected field, so that it can be held against one. The modified equation is a series in
powers of what the memory and the step make of an update,

    validity = max_n ( |F^(n) - F^(n)(theta_n)| + |F^(n)(theta_n+1) - F^(n)(theta_n)| / 2 ) / max_n |F^(n)|

in max norms, with F^(n) the update that was taken and F^(n)(theta) the one frozen at a point. It falls like
h, unless the memory spans the run or components of the update keep changing sign. The memory is short if

    remembered = |F - F'| / |F|

is small, F and F' being the last updates of two runs over the gradients at the start, those of the second
multiplied by -2 in its first half. The loss is smooth if

    roughness = sum_n ||dg_n - Hess E dtheta_n|| / sum_n ||dg_n||

with dtheta_n and dg_n the change of the point and of the gradient (of one mini-batch) in a step, and Hess E
at its middle, falls like h^2: it falls like h where the curvature jumps, and not at all where the gradient
jumps (ReLU, abs) or is not what is differentiated (`stop_gradient`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.fields.vector_field import raveled_field
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.from_optax.rule import raveled_transformation
from implicit_adam.types import Scalar, StepNumber, Vector


class Watched(NamedTuple):
    """Streamed over a run: largest changes of the update and largest update; sums over the gradients.

    `first` is by how much the very first update, which remembers nothing, is not the one frozen at the start.
    """

    change: Scalar
    update: Scalar
    first: Scalar
    unexplained: Scalar
    gradient_path: Scalar

    @property
    def validity(self) -> Any:
        """0 where nothing moved at all."""
        return share(self.change, self.update)

    @property
    def roughness(self) -> Any:
        """0 where the gradient never changed."""
        return share(self.unexplained, self.gradient_path)


# watch(n, theta_n-1, theta_n, theta_n+1, so far); at n = 0 the first two are the same.
Watch = Callable[[StepNumber, Vector, Vector, Vector, Watched], Watched]


def watched(rule: AbstractOptimizer, objective: Objective) -> tuple[Watched, Watch]:
    """What is known before a run, and `watch`, to be called at every step."""
    plain = raveled_field(rule, objective, 0)

    def watch(n: StepNumber, _before: Vector, here: Vector, there: Vector, so_far: Watched) -> Watched:
        F, F_here, F_there = (here - there) / rule.h, -plain(n)(here), -plain(n)(there)
        memory, step = _largest(F - F_here), _largest(F_there - F_here) / 2
        return Watched(
            jnp.maximum(so_far.change, memory + step),
            jnp.maximum(so_far.update, _largest(F)),
            jnp.where(n == 0, memory, so_far.first),
            *_smoothness(objective, n, here, there, so_far),
        )

    return _nothing(rule), watch


def watched_steps(rule: AbstractOptimizer, objective: Objective, start: StepNumber) -> tuple[Watched, Watch]:
    """For equations that expand the step alone: what changes in one, |F^(n) - F^(n-1)| for n > start."""

    def watch(n: StepNumber, before: Vector, here: Vector, there: Vector, so_far: Watched) -> Watched:
        F, F_before = (here - there) / rule.h, (before - here) / rule.h
        change = jnp.where(n > start, _largest(F - F_before), jnp.zeros_like(rule.h))
        return Watched(
            jnp.maximum(so_far.change, change),
            jnp.maximum(so_far.update, _largest(F)),
            so_far.first,
            *_smoothness(objective, n, here, there, so_far),
        )

    return _nothing(rule), watch


def _nothing(rule: AbstractOptimizer) -> Watched:
    return Watched(*(jnp.zeros_like(rule.h) for _ in Watched._fields))


def _smoothness(
    objective: Objective, n: StepNumber, here: Vector, there: Vector, so_far: Watched
) -> tuple[Scalar, Scalar]:
    """The sums of the roughness, one step on."""
    gradient = objective.gradient_of_step(n)
    moved, turned = there - here, gradient(there) - gradient(here)
    _, explained = jax.jvp(gradient, (here + moved / 2,), (moved,))
    unexplained = so_far.unexplained + jnp.linalg.norm(turned - explained)
    return unexplained, so_far.gradient_path + jnp.linalg.norm(turned)


def remembered(rule: AbstractOptimizer, objective: Objective, theta: Vector, steps: StepNumber) -> Scalar:
    """By which share other gradients in the first half of a run of so many steps change its last update."""
    optimizer, G = (
        raveled_transformation(rule.transformation(), objective.unravel),
        objective.gradients(theta),
    )

    def last_update(first_half: float) -> Vector:
        def step(n: StepNumber, carry: tuple) -> tuple:
            g = objective.of_step(G, n)
            return optimizer.update(jnp.where(2 * n < steps, first_half * g, g), carry[1], theta)

        return jax.lax.fori_loop(0, steps, step, (jnp.zeros_like(theta), optimizer.init(theta)))[0]

    same, other = last_update(1.0), last_update(-2.0)
    return share(_largest(same - other), _largest(same))


def share(part: Any, whole: Any) -> Any:
    """part / whole, with 0/0 = 0, of JAX's or numpy's numbers."""
    return part / jnp.where(part == 0, jnp.ones_like(whole), whole)


def _largest(x: Vector) -> Scalar:
    return jnp.max(jnp.abs(x))
