"""A residual network for 8 x 8 images, small enough to train many in full batch on two cores.

It has GELU and average pooling, so that the loss has all the derivatives that the theorem requires; with
batch normalisation, too, if the statistics are of the whole batch: then the loss is one smooth function of
the parameters. Convolutions are matrix products of 3 x 3 patches: vmapped over networks they stay matrix
products, where a convolution would become a slow grouped one on a CPU.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.networks.base import is_right
from implicit_adam.networks.layers import patches
from implicit_adam.networks.normalisation import batch_norm
from implicit_adam.types import Params

Images = Float[Array, "samples _ _ _"]


def residual_params(
    key: Array, *, channels: int = 12, blocks: int = 2, classes: int = 10, normalised: bool = False
) -> Params:
    """Gaussian weights of variance 2 / fan-in (1 / fan-in at the end), zero biases, in float32.

    `normalised`: batch normalisation, of scale 1 and shift 0, after each convolution in place of its bias.
    """
    stem, end, *inner = jax.random.split(key, 2 + 2 * blocks)
    pairs = zip(inner[::2], inner[1::2], strict=True)

    def convolution(key: Array, inputs: int, variance: float) -> Params:
        layer = _layer(key, 9 * inputs, channels, variance)
        scale_and_shift = {"scale": jnp.ones(channels, jnp.float32), "shift": layer["b"]}
        return {"w": layer["w"], "norm": scale_and_shift} if normalised else layer

    return {
        "stem": convolution(stem, 1, 2.0),
        "blocks": [
            (convolution(first, channels, 2.0), convolution(second, channels, 2.0 / blocks))
            for first, second in pairs
        ],
        "end": _layer(end, 4 * channels, classes, 1.0),
    }


def residual_logits(
    params: Params, images: Float[Array, "samples 8 8"], over: int | None = None
) -> Float[Array, "samples classes"]:
    """A 3 x 3 stem, pooling to 4 x 4, blocks x + W2 gelu(W1 x), pooling to 2 x 2, and a dense layer.

    Normalisation, if the parameters have it, is with the mean and variance of the first `over` images; None
    takes all.
    """
    x = _pooled(jax.nn.gelu(_convolved(params["stem"], images[..., None], over)))
    for first, second in params["blocks"]:
        x = x + _convolved(second, jax.nn.gelu(_convolved(first, x, over)), over)
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


def _convolved(layer: Params, x: Images, over: int | None) -> Images:
    if "norm" not in layer:
        return _affine(layer, patches(x, 3))
    y = patches(x, 3) @ layer["w"]
    _, statistics = batch_norm(layer["norm"], y[:over], None)
    return batch_norm(layer["norm"], y, statistics)[0]


def _pooled(x: Images) -> Images:
    samples, side, _, channels = x.shape
    return jnp.mean(x.reshape(samples, side // 2, 2, side // 2, 2, channels), axis=(2, 4))
