"""`Network`: an initialisation and a forward pass, with the statistics of normalisation layers explicit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from jaxtyping import Key as JaxKey

from implicit_adam.types import Params

Key = JaxKey[Array, ""]
Images = Float[Array, "n height width channels"]
Activations = Float[Array, "n ..."]
Logits = Float[Array, "n classes"]
# A pytree with the mean and variance of every normalisation layer, or None for those without statistics.
Statistics = Any
Activation = Callable[[Array], Array]

# Independent of the dtype in which the forward pass computes.
PARAMETER_DTYPE = jnp.float32


class Network(NamedTuple):
    """An image classifier as two pure functions.

    - `init(key) -> params`: nested dictionaries of float32 arrays.
    - `apply(params, images, statistics=None) -> (logits, seen)`: images (n, height, width, 3), logits
      (n, classes) in float32. Without `statistics`, every normalisation uses the mean and variance of these
      images, returned as `seen`. Given `statistics` are used as constants and returned.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., tuple[Logits, Statistics]]


def at(statistics: Statistics, name: str) -> Statistics:
    """The statistics of the part `name` of a network; None if `statistics` is None."""
    return None if statistics is None else statistics[name]


def is_right(logits: Logits, labels: Int[Array, " n"]) -> Bool[Array, " n"]:
    """(n,) whether the largest logit is that of the label."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
