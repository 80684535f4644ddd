"""Initialisation of parameters: described leaf by leaf, drawn all at once.

There is one draw for the whole network, since every call of a random number generator is compiled anew: with
one call per layer, they took longer to compile than the training step.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.networks.base import PARAMETER_DTYPE, Key
from implicit_adam.types import Params


@dataclass(frozen=True)
class Initial:
    """One array: "gaussian" with standard deviation `scale`, "uniform" in +-scale, or "constant"."""

    shape: tuple[int, ...]
    kind: str
    scale: float


def stacked(count: int, initial: Any) -> Any:
    """The initialisation of `count` parts of equal shapes, along a new leading axis."""
    return jax.tree.map(lambda leaf: replace(leaf, shape=(count, *leaf.shape)), initial)


def drawn(initial: Any, key: Key) -> Params:
    """Draw the float32 arrays that a pytree of `Initial` describes."""
    leaves, structure = jax.tree.flatten(initial)
    sizes = [0 if leaf.kind == "constant" else math.prod(leaf.shape) for leaf in leaves]
    # An open interval, as in jax.random.normal: at its ends the inverse error function is infinite.
    least = float(np.nextafter(np.float32(-1), np.float32(0)))
    u = jax.random.uniform(key, (sum(sizes),), PARAMETER_DTYPE, least, 1.0)
    normal = jnp.asarray(2**0.5, PARAMETER_DTYPE) * jax.lax.erf_inv(u)
    ends = np.cumsum(sizes)
    arrays = [
        _cut(leaf, normal if leaf.kind == "gaussian" else u, int(end) - size)
        for leaf, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)


def _cut(leaf: Initial, numbers: jax.Array, begin: int) -> jax.Array:
    if leaf.kind == "constant":
        return jnp.full(leaf.shape, leaf.scale, PARAMETER_DTYPE)
    return leaf.scale * numbers[begin : begin + math.prod(leaf.shape)].reshape(leaf.shape)
