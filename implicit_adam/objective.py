"""The loss of each mini-batch as a function of one flat vector: raveled once, formulas stay the paper's.

Below this line parameters are a vector theta of length p; the m mini-batch losses are E_0 .. E_{m-1} and
step n uses E_b with b = schedule[n] (cyclic, n mod m, when there is no schedule).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from implicit_adam.types import Batches, Loss, Params, Scalar, Schedule, StepNumber, Vector

Gradients = Float[Array, "m p"]


class Objective(NamedTuple):
    """The m mini-batch losses on flat vectors and the order in which the steps visit them."""

    loss: Callable[[Vector, Any], Scalar]
    unravel: Callable[[Vector], Params]
    batches: Batches
    schedule: Schedule | None
    m: int

    def visited(self, n: StepNumber) -> Int[Array, ""]:
        """The index b of the mini-batch of step n."""
        if self.schedule is None:
            return jnp.asarray(n) % self.m
        return self.schedule[n]

    def step_gradient(self, theta: Vector, n: StepNumber) -> Vector:
        """grad E_b at theta for the mini-batch of step n."""
        b = self.visited(n)
        batch = jax.tree.map(lambda x: x[b], self.batches)
        return jax.grad(self.loss)(theta, batch)

    def gradients(self, theta: Vector) -> Gradients:
        """grad E_b at theta for every mini-batch."""
        return self._gradients(jnp.broadcast_to(theta, (self.m, theta.size)))

    def linearize(self, theta: Vector) -> tuple[Gradients, Callable[[Gradients], Gradients]]:
        """All mini-batch gradients, and V -> (Hess E_b(theta) V_b)_b without recomputing them."""
        return jax.linearize(self._gradients, jnp.broadcast_to(theta, (self.m, theta.size)))

    def full_batch(self) -> "Objective":
        """The mean of the mini-batch losses as one loss."""

        def mean(theta: Vector, _: Any) -> Scalar:
            return jnp.mean(jax.vmap(self.loss, (None, 0), axis_size=self.m)(theta, self.batches))

        return Objective(mean, self.unravel, None, None, 1)

    def _gradients(self, thetas: Gradients) -> Gradients:
        return jax.vmap(jax.grad(self.loss), axis_size=self.m)(thetas, self.batches)


def ravel(params: Params) -> Vector:
    """The parameters as one vector."""
    return ravel_pytree(params)[0]


def unravel_like(params: Params) -> Callable[[Vector], Params]:
    """The way back from a vector to a pytree like `params`."""
    return ravel_pytree(params)[1]


def raveled(
    loss: Loss, params: Params, batches: Batches = None, schedule: Schedule | None = None
) -> Objective:
    """`loss(params)` or `loss(params, batch)`, and its batches, as an objective on flat vectors."""
    unravel = unravel_like(params)
    if batches is None:
        return Objective(lambda theta, _: loss(unravel(theta)), unravel, None, None, 1)
    m = jax.tree.leaves(batches)[0].shape[0]
    return Objective(lambda theta, batch: loss(unravel(theta), batch), unravel, batches, schedule, m)
