"""Is h small, is the memory short, is the loss smooth? Measured on the optimizer's own run.

No corrected field enters these measures, so that one can be judged by them. The modified equation is a series
in powers of the relative change that memory and step make to an update,

    validity = max_n ( |F^(n) - F^(n)(theta_n)| + |F^(n)(theta_n+1) - F^(n)(theta_n)| / 2 ) / max_n |F^(n)|

in max norms, with F^(n) the update that was taken and F^(n)(theta) the update frozen at theta. It falls like
h, unless the memory spans the run or components of the update keep changing sign. The memory is short if

    remembered = |F - F'| / |F|

is small. F and F' are the last updates of two runs that see the gradient at the start in every step, in the
second run multiplied by -2 during the first half. The loss is smooth if

    roughness = sum_n ||dg_n - Hess E dtheta_n|| / sum_n ||dg_n||

falls like h^2. dtheta_n and dg_n are the changes of the point and of the gradient (of one mini-batch) in a
step, and Hess E is taken at its middle. The roughness falls like h where the curvature jumps, and not at all
where the gradient jumps (ReLU, abs) or is not the derivative of the loss (`stop_gradient`).
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
    """Maxima and sums over a run, from which `validity` and `roughness` are computed.

    `change` and `update` are the largest change of the update and the largest update; `unexplained` and
    `gradient_path` the two sums of the roughness. `first` is the difference between the first update and the
    one frozen at the start, which should be zero, since nothing is remembered yet.
    """

    change: Scalar
    update: Scalar
    first: Scalar
    unexplained: Scalar
    gradient_path: Scalar

    @property
    def validity(self) -> Any:
        """The relative change of the update by memory and step; 0 if nothing moved at all."""
        return share(self.change, self.update)

    @property
    def roughness(self) -> Any:
        """The share of the gradient's change not explained by Hess E; 0 if the gradient never changed."""
        return share(self.unexplained, self.gradient_path)


# watch(n, theta_n-1, theta_n, theta_n+1, so far); at n = 0 the first two are the same.
Watch = Callable[[StepNumber, Vector, Vector, Vector, Watched], Watched]


def watched(rule: AbstractOptimizer, objective: Objective) -> tuple[Watched, Watch]:
    """The `Watched` before a run, and `watch`, to be called at every step."""
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
    """As `watched`, for equations that expand the step only: the change is |F^(n) - F^(n-1)|, n > start."""

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
    """The two sums of the roughness, after one more step."""
    gradient = objective.gradient_of_step(n)
    moved, turned = there - here, gradient(there) - gradient(here)
    _, explained = jax.jvp(gradient, (here + moved / 2,), (moved,))
    unexplained = so_far.unexplained + jnp.linalg.norm(turned - explained)
    return unexplained, so_far.gradient_path + jnp.linalg.norm(turned)


def remembered(rule: AbstractOptimizer, objective: Objective, theta: Vector, steps: StepNumber) -> Scalar:
    """|F - F'| / |F|: how much the gradients in the first half of a run still decide its last update."""
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
    """part / whole, with 0/0 = 0, for JAX or numpy numbers."""
    return part / jnp.where(part == 0, jnp.ones_like(whole), whole)


def _largest(x: Vector) -> Scalar:
    return jnp.max(jnp.abs(x))
