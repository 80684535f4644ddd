"""What a network is: a start and a forward pass, with the statistics of its normalisation made explicit."""

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
# A pytree in step with the parameters, one entry a normalisation: its mean and variance, or nothing.
Statistics = Any
Activation = Callable[[Array], Array]

# Whatever the forward pass computes in.
PARAMETER_DTYPE = jnp.float32


class Network(NamedTuple):
    """Pure functions of a classifier.

    - `init(key) -> params`, nested dictionaries of float32 arrays.
    - `apply(params, images, statistics=None) -> (logits, seen)`: images (n, height, width, 3), logits
      (n, classes) in float32. Without `statistics` every normalisation takes those of these images, which
      come back as `seen`; given, they are constants (and come back).
    """

    init: Callable[[Key], Params]
    apply: Callable[..., tuple[Logits, Statistics]]


def at(statistics: Statistics, name: str) -> Statistics:
    """The statistics of one part of a network; none of none."""
    return None if statistics is None else statistics[name]


def is_right(logits: Logits, labels: Int[Array, " n"]) -> Bool[Array, " n"]:
    """Whether the largest logit is that of the label."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
