"""A residual network for 8 x 8 images, small enough to train many in full batch on two cores.

It has GELU, average pooling and no batch normalisation, so that the loss has all the derivatives that the
theorem requires. Convolutions are matrix products of 3 x 3 patches: vmapped over networks they stay matrix
products, where a convolution would become a slow grouped one on a CPU.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.networks.base import is_right
from implicit_adam.networks.layers import patches
from implicit_adam.types import Params

Images = Float[Array, "samples _ _ _"]


def residual_params(key: Array, *, channels: int = 12, blocks: int = 2, classes: int = 10) -> Params:
    """Gaussian weights of variance 2 / fan-in (1 / fan-in at the end), zero biases, in float32."""
    stem, end, *inner = jax.random.split(key, 2 + 2 * blocks)
    pairs = zip(inner[::2], inner[1::2], strict=True)
    return {
        "stem": _layer(stem, 9, channels, 2.0),
        "blocks": [
            (_layer(first, 9 * channels, channels, 2.0), _layer(second, 9 * channels, channels, 2.0 / blocks))
            for first, second in pairs
        ],
        "end": _layer(end, 4 * channels, classes, 1.0),
    }


def residual_logits(params: Params, images: Float[Array, "samples 8 8"]) -> Float[Array, "samples classes"]:
    """A 3 x 3 stem, pooling to 4 x 4, blocks x + W2 gelu(W1 x), pooling to 2 x 2, and a dense layer."""
    x = _pooled(jax.nn.gelu(_convolved(params["stem"], images[..., None])))
    for first, second in params["blocks"]:
        x = x + _convolved(second, jax.nn.gelu(_convolved(first, x)))
    x = _pooled(jax.nn.gelu(x))
    return _affine(params["end"], x.reshape(x.shape[0], -1))


def accuracy(logits: Float[Array, "samples classes"], labels: Int[Array, " samples"]) -> Array:
    """The fraction of samples whose label has the largest logit."""
    return jnp.mean(is_right(logits, labels).astype(logits.dtype))


def _layer(key: Array, inputs: int, outputs: int, variance: float) -> Params:
    weights = jax.random.normal(key, (inputs, outputs), jnp.float32)
    return {"w": weights * (variance / inputs) ** 0.5, "b": jnp.zeros(outputs, jnp.float32)}


def _affine(layer: Params, x: Array) -> Array:
    return x @ layer["w"] + layer["b"].reshape((1,) * (x.ndim - 1) + (-1,))


def _convolved(layer: Params, x: Images) -> Images:
    return _affine(layer, patches(x, 3))


def _pooled(x: Images) -> Images:
    samples, side, _, channels = x.shape
    return jnp.mean(x.reshape(samples, side // 2, 2, side // 2, 2, channels), axis=(2, 4))
