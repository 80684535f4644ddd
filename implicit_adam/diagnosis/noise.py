"""The gradient noise of mini-batches."""

from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.inputs import Inputs
from implicit_adam.types import Scalar


def noise_of(inputs: Inputs) -> Scalar:
    """Tr Cov of the m mini-batch gradients over ||mean||^2; the m mini-batches are all the data."""
    if inputs.batches is None:
        return jnp.full_like(inputs.rule.h, jnp.nan)

    def sums(total: Any, batch: Any) -> Any:
        g = inputs.objective.gradient(inputs.theta, batch)
        return (total[0] + g, total[1] + g @ g), None

    m = inputs.objective.m
    (g, squares), _ = jax.lax.scan(
        sums, (jnp.zeros_like(inputs.theta), jnp.zeros_like(inputs.rule.h)), inputs.batches
    )
    square = (g / m) @ (g / m)
    return (squares / m - square) / square
