"""The denominator that adaptive optimizers share."""

import jax.numpy as jnp

from implicit_adam.types import Scalar, Vector


def root(R2: Vector, eps: Scalar, *, inside: bool, degree: int = 2) -> Vector:
    """sqrt(R2 + eps), or sqrt(R2) + eps with the derivative at R2 = 0 set to zero instead of infinity.

    `degree` is the degree of the root, 2 by default. With eps outside, the theorem requires that no gradient
    component vanishes (Remark 1.2); the guard only keeps a dead coordinate (all gradients zero so far) from
    turning its neighbours into NaN.
    """
    if inside:
        return _power(R2 + eps, degree)
    safe = jnp.where(R2 > 0, R2, jnp.ones_like(R2))
    return jnp.where(R2 > 0, _power(safe, degree), jnp.zeros_like(R2)) + eps


def _power(x: Vector, degree: int) -> Vector:
    return jnp.sqrt(x) if degree == 2 else x ** (1 / degree)
