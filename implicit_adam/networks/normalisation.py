"""The choices of normalisation, which decide what "full batch" means.

Batch statistics couple the images of a micro-batch, so the mean of the micro-batch losses is a different
function of the parameters than the loss of the whole batch. So the choice is explicit, not hidden in a layer:

- "exact": statistics of the whole batch, in one piece; this is the loss in the theorem.
- "ghost": statistics of each micro-batch, reshuffled every epoch, as in the authors' experiments; the loss is
  then slightly random.
- "frozen": statistics measured once, at the start, and constant from then on.
- "group", "layer": statistics of each image (or token) alone, so splitting the batch changes nothing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from implicit_adam.networks.base import PARAMETER_DTYPE, Activations, Statistics
from implicit_adam.networks.initial import Initial
from implicit_adam.networks.layers import STORED

EPS = 1e-5
GROUPS = 32

# (params, activations, statistics or None) -> (activations, statistics used)
Normalise = Callable[[dict[str, Array], Activations, Statistics], tuple[Activations, Statistics]]


class Normalisation(NamedTuple):
    """A normalisation layer, and how the passes over the data must treat it."""

    layer: Normalise
    whole_batch: bool = False
    reshuffled: bool = False
    frozen: bool = False


def normalise_initial(channels: int) -> dict[str, Initial]:
    """The initialisation of a normalisation layer: scale one, shift zero."""
    return {"scale": Initial((channels,), "constant", 1.0), "shift": Initial((channels,), "constant", 0.0)}


def batch_norm(
    params: dict[str, Array], x: Activations, statistics: Statistics
) -> tuple[Activations, Statistics]:
    """(x - mean) / sqrt(variance + 1e-5) scale + shift, with statistics over all axes but the channels.

    The variance is the biased one. Computed in float32 for every dtype of x. Given statistics are constants.
    """
    wide = x.astype(PARAMETER_DTYPE)
    if statistics is None:
        axes = tuple(range(x.ndim - 1))
        mean = checkpoint_name(jnp.mean(wide, axes), STORED)
        centred = wide - _over(mean, wide)
        statistics = {"mean": mean, "variance": checkpoint_name(jnp.mean(centred**2, axes), STORED)}
    centred = wide - _over(statistics["mean"], wide)
    y = centred * _over(jax.lax.rsqrt(statistics["variance"] + EPS), wide)
    return _scaled(params, y).astype(x.dtype), statistics


def group_norm(params: dict[str, Array], x: Activations, _: Statistics) -> tuple[Activations, None]:
    """As `batch_norm`, with statistics over all positions of one image and a group of its channels.

    There are 32 groups, or the largest number that divides both 32 and the number of channels.
    """
    groups = math.gcd(GROUPS, x.shape[-1])
    split = x.astype(PARAMETER_DTYPE).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    y = _standardised(split, (1, 3)).reshape(x.shape)
    return _scaled(params, y).astype(x.dtype), None


def layer_norm(params: dict[str, Array], x: Activations, _: Statistics) -> tuple[Activations, None]:
    """As `batch_norm`, with statistics over the channels of one position."""
    y = _standardised(x.astype(PARAMETER_DTYPE), (x.ndim - 1,))
    return _scaled(params, y).astype(x.dtype), None


NORMALISATIONS: dict[str, Normalisation] = {
    "exact": Normalisation(batch_norm, whole_batch=True),
    "ghost": Normalisation(batch_norm, reshuffled=True),
    "frozen": Normalisation(batch_norm, frozen=True),
    "group": Normalisation(group_norm),
    "layer": Normalisation(layer_norm),
}


def _standardised(x: Array, axes: tuple[int, ...]) -> Array:
    mean = checkpoint_name(jnp.mean(x, axes, keepdims=True), STORED)
    centred = x - mean
    variance = checkpoint_name(jnp.mean(centred**2, axes, keepdims=True), STORED)
    return centred * jax.lax.rsqrt(variance + EPS)


def _scaled(params: dict[str, Array], y: Array) -> Array:
    return y * _over(params["scale"], y) + _over(params["shift"], y)


def _over(v: Float[Array, " channels"], x: Array) -> Array:
    return jnp.broadcast_to(v, x.shape)
