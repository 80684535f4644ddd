"""Random smooth losses on a few parameters, for claims about any loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from implicit_adam.types import Scalar, Vector

Data = tuple[Array, Array]


def random_data(key: Array, p: int) -> Data:
    """Gaussian A (2p, p) with variance 1/p, and c (2p,), for `random_loss`."""
    key_A, key_c = jax.random.split(key)
    return jax.random.normal(key_A, (2 * p, p)) / p**0.5, jax.random.normal(key_c, (2 * p,))


def random_loss(theta: Vector, data: Data) -> Scalar:
    """E(theta) = sum_i log cosh (A theta - c)_i, convex with all derivatives bounded."""
    A, c = data
    z = A @ theta - c
    # log cosh z without overflow
    return jnp.sum(jnp.logaddexp(z, -z) - jnp.log(jnp.asarray(2.0, z.dtype)))
