"""A small vision transformer (Dosovitskiy et al. 2021): 4x4 patches, pre-norm, mean pool."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from implicit_adam.networks.base import (
    PARAMETER_DTYPE,
    Activation,
    Images,
    Logits,
    Network,
    Statistics,
)
from implicit_adam.networks.initial import Initial, drawn, stacked
from implicit_adam.networks.layers import dense, dense_initial, pooled
from implicit_adam.networks.normalisation import Normalise, normalise_initial
from implicit_adam.types import Params

PATCH = 4
SIDE = 32
HEADS = 3
BLOCKS = 6
EXPANSION = 4

Tokens = Float[Array, "n tokens features"]


def vit(
    classes: int, *, width: int, activation: Activation, normalise: Normalise, dtype: DTypeLike
) -> Network:
    """Six blocks with three heads on the 64 tokens of a 32x32 image.

    `width`, the length of a token, must be a multiple of three; raises `ValueError` otherwise.
    """
    if width % HEADS:
        msg = f"width must be a multiple of the {HEADS} heads of vit, got {width}"
        raise ValueError(msg)

    initial = {
        "patches": dense_initial(PATCH**2 * 3, width),
        "positions": Initial(((SIDE // PATCH) ** 2, width), "gaussian", 0.02),
        "blocks": stacked(BLOCKS, _block(width)),
        "norm": normalise_initial(width),
        "head": dense_initial(width, classes),
    }

    # The backward pass recomputes a block's attention weights and hidden units instead of storing them.
    @jax.checkpoint
    def block(x: Tokens, params: Params) -> Tokens:
        x = x + _attention(params, normalise(params["norm1"], x, None)[0])
        hidden = activation(dense(params["in"], normalise(params["norm2"], x, None)[0]))
        return x + dense(params["out"], hidden)

    def apply(params: Params, images: Images, statistics: Statistics = None) -> tuple[Logits, Statistics]:
        x = dense(params["patches"], _patches(images.astype(dtype)))
        x = x + jnp.broadcast_to(params["positions"].astype(dtype), x.shape)
        x, _ = jax.lax.scan(lambda x, params: (block(x, params), None), x, params["blocks"])
        x, seen = normalise(params["norm"], x, statistics)
        return dense(params["head"], pooled(x)), seen

    return Network(partial(drawn, initial), apply)


def _block(width: int) -> dict[str, Any]:
    return {
        "norm1": normalise_initial(width),
        "qkv": dense_initial(width, 3 * width),
        "attended": dense_initial(width, width),
        "norm2": normalise_initial(width),
        "in": dense_initial(width, EXPANSION * width),
        "out": dense_initial(EXPANSION * width, width),
    }


def _patches(images: Images) -> Tokens:
    n, height, width, channels = images.shape
    if (height, width) != (SIDE, SIDE):
        msg = (
            f"vit takes images of {SIDE}x{SIDE} pixels, got {height}x{width}; the other models take any size"
        )
        raise ValueError(msg)
    x = images.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, PATCH**2 * channels)


def _attention(params: Params, x: Tokens) -> Tokens:
    """Multi-head attention softmax(q k^T / sqrt(d)) v, with the softmax in float32."""
    n, tokens, width = x.shape
    q, k, v = jnp.moveaxis(dense(params["qkv"], x).reshape(n, tokens, 3, HEADS, width // HEADS), 2, 0)
    scores = jnp.einsum("nihd,njhd->nhij", q, k).astype(PARAMETER_DTYPE) * (width // HEADS) ** -0.5
    weights = jax.nn.softmax(scores).astype(x.dtype)
    return dense(params["attended"], jnp.einsum("nhij,njhd->nihd", weights, v).reshape(x.shape))
