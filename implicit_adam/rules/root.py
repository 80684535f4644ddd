"""The denominator that adaptive optimizers share."""

import jax.numpy as jnp

from implicit_adam.types import Scalar, Vector


def root(R2: Vector, eps: Scalar, *, inside: bool) -> Vector:
    """sqrt(R2 + eps), or sqrt(R2) + eps whose derivative at R2 = 0 is set to zero instead of infinity.

    With eps outside, the theorem asks that no gradient component vanishes (Remark 1.2); the guard only
    keeps a dead coordinate (all gradients zero so far) from spoiling its neighbours with NaN.
    """
    if inside:
        return jnp.sqrt(R2 + eps)
    return jnp.where(R2 > 0, jnp.sqrt(jnp.where(R2 > 0, R2, jnp.ones_like(R2))), jnp.zeros_like(R2)) + eps
