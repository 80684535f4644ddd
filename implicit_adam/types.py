"""The shapes that signatures speak of. `p` is the number of parameters, `m` of mini-batches."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PyTree, Real

Scalar = Float[Array, ""]
# n, counted from 0; `jnp.inf` where a limit is offered.
StepNumber = int | float | Real[Array, ""]
Flag = Bool[Array, ""]
Vector = Float[Array, " p"]
Schedule = Int[Array, " steps"]
Params = PyTree[Array]
Batches = PyTree[Array] | None
Loss = Callable[..., Any]

# theta -> d theta / dt, on flat vectors.
Velocity = Callable[[Vector], Vector]
# n -> the velocity on the n-th interval; what depends on n alone is computed once, outside a solver's stages.
Field = Callable[[StepNumber], Velocity]


def working_dtype(dtype: DTypeLike) -> jnp.dtype:
    """What is computed in for parameters of a dtype: their own, but no narrower than float32."""
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32)
