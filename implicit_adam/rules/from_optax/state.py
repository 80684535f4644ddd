"""The state of an optax transformation for differentiation: without zeros, and set forward in time.

A square root has no derivative at zero. For a coordinate without a gradient, Adam with eps outside the root
has a derivative only as a limit, sqrt(nu) -> 0+, and a second moment that starts at zero gives 0 * inf even
where the result is not used. So zeros are replaced by negligible numbers: t in gradients, t^2 in memories,
with t = 1e-129 in float64 and 2e-16 in float32. With eps = 1e-8 they cause updates of 1e-121 and 2e-8.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from implicit_adam.types import Params, StepNumber


def away_from_zero(g: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A gradient with t in place of zeros; its derivative is unchanged."""
    return g + jnp.where(g == 0, _tiny(g), 0).astype(g.dtype)


def initial_state(tx: optax.GradientTransformation, params: Params) -> Any:
    """`tx.init(params)` as arrays, with t^2 in place of zeros among the floating numbers."""
    with jax.numpy_dtype_promotion("standard"):
        return without_zeros(tx.init(params))


def without_zeros(state: Any) -> Any:
    """A state as arrays, with t^2 in place of zeros among the floating numbers."""
    return _without_zeros(jax.tree.map(jnp.asarray, state))


# Outside of jit every operation on every shape would be a program of its own.
@partial(jax.jit, inline=True)
def _without_zeros(state: Any) -> Any:
    def nonzero(x: Any) -> Any:
        if not eqx.is_inexact_array(x):
            return x
        return x + jnp.where(x == 0, _tiny(x) ** 2, 0).astype(x.dtype)

    return jax.tree.map(nonzero, state)


def set_forward(state: Any, advance: Any, periods: StepNumber) -> Any:
    """The state `periods` periods later: each number in it (no flags, no keys) grows by `advance` a period.

    Computed in the dtype of each number, since float32 does not hold every step number.
    """
    leaves, structure = jax.tree.flatten(state)

    def later(x: Any, advance: Any) -> Any:
        return x + jnp.asarray(advance).astype(x.dtype) * jnp.asarray(periods).astype(x.dtype)

    moved = [later(x, a) if is_number(x) else x for x, a in zip(leaves, advance, strict=True)]
    return jax.tree.unflatten(structure, moved)


def is_number(x: Any) -> bool:
    """Whether a leaf is a single number, which may count steps."""
    return x.ndim == 0 and (jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.inexact))


def _tiny(x: Any) -> float:
    return float(jnp.finfo(x.dtype).tiny) ** 0.42
