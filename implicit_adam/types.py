"""Types for signatures. In shapes `p` is the number of parameters and `m` the number of mini-batches."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PyTree, Real

Scalar = Float[Array, ""]
# The step number n, counted from 0; `jnp.inf` where a function offers the limit n to infinity.
StepNumber = int | float | Real[Array, ""]
Flag = Bool[Array, ""]
Vector = Float[Array, " p"]
Schedule = Int[Array, " steps"]
Params = PyTree[Array]
Batches = PyTree[Array] | None
Loss = Callable[..., Any]

# theta -> d theta / dt, on flat vectors.
Velocity = Callable[[Vector], Vector]
# n -> the velocity on the n-th interval. Work that depends on n alone is done outside a solver's stages.
Field = Callable[[StepNumber], Velocity]


def working_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which to compute for parameters of a given dtype: the same, but at least float32."""
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32)
