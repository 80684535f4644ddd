"""Shuffled mini-batches (Smith et al. 2021): one epoch of gradient descent, averaged over all shuffles.

The mean after m steps follows the gradient flow of E~ = E + h/(4m) sum_k ||grad E_k||^2 over the time m h up
to O(h^3), and that of E up to O(h^2).
"""

from dataclasses import dataclass
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from implicit_adam.losses import modified_losses
from implicit_adam.objective import mean_loss
from implicit_adam.paper.claims import Advance, Experiment
from implicit_adam.paper.modified_flows import Orders, gradient_flow, order_claim, orders, picture
from implicit_adam.paper.random_losses import random_data, random_loss
from implicit_adam.rules import GradientDescent
from implicit_adam.runs.iterate import iterate
from implicit_adam.types import Scalar, Vector


@dataclass(frozen=True)
class ShuffleConfig:
    """The step sizes, and the number of mini-batches, each with a random loss on p parameters."""

    h: tuple[float, ...] = (0.01, 0.005, 0.0025, 0.00125)
    batches: int = 3
    p: int = 5
    seed: int = 0


def run(config: ShuffleConfig, advance: Advance) -> Orders:
    """Measure at every step size, averaging over all shuffles."""
    m = config.batches
    data = jax.vmap(lambda key: random_data(key, config.p))(jax.random.split(jax.random.key(config.seed), m))
    theta = jnp.ones(config.p)
    shuffles = jnp.asarray(list(permutations(range(m))))
    loss = mean_loss(random_loss, data)

    @jax.jit
    def distances(h: Scalar) -> tuple[Scalar, ...]:
        rule = GradientDescent(h)

        def epoch(order: Array) -> Vector:
            run = iterate(rule, random_loss, theta, m, batches=data, schedule=order, save_every=m)
            return jnp.asarray(run.params)[-1]

        mean = jnp.mean(jax.vmap(epoch)(shuffles), axis=0)
        modified = modified_losses.shuffled_gradient_descent(rule, random_loss, data)
        ends = [gradient_flow(E, theta, (m * h)[None])[0] for E in (modified, loss)]
        return tuple(jnp.linalg.norm(end - mean) for end in ends)

    errors = []
    for i, h in enumerate(config.h):
        errors.append(distances(jnp.asarray(h)))
        advance((i + 1) / len(config.h))
    return orders(3, np.asarray(config.h), errors, 0.0)


SGD = Experiment(
    "Shuffled mini-batches (Smith et al.)",
    "random losses",
    ShuffleConfig(),
    ShuffleConfig(h=(0.005, 0.0025, 0.00125)),
    run,
    order_claim(
        "section 1",
        "After one epoch the mean iterate over all shuffles is close to the flow of E + h/(4m) sum_k ||grad "
        "E_k||^2.",
    ),
    picture,
)
