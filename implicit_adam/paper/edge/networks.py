"""Four small networks with squared loss on handwritten digits, smooth and in float64.

Each is `network(key) -> (params, apply)`; apply(params, images) maps images (n, 8, 8) to outputs (n, 10).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.losses.problems import load_digits
from implicit_adam.types import Loss, Params

CLASSES = 10
Images = Float[Array, "n 8 8"]
Apply = Callable[[Params, Images], Float[Array, "n 10"]]


class Network(NamedTuple):
    """The initial parameters and the forward pass of a network."""

    params: Params
    apply: Apply


def on_digits(network: Callable[[Any], Network], samples: int) -> tuple[Loss, Params]:
    """The loss, half the mean over the images of ||output - one-hot label||^2, and the initial parameters."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))[:samples]
    x = jnp.asarray(images[order].reshape(-1, 8, 8) / 16.0, float)
    y = jax.nn.one_hot(labels[order], CLASSES, dtype=float)
    params, apply = network(jax.random.key(0))

    def loss(params: Params) -> jax.Array:
        return jnp.mean(jnp.sum((apply(params, x) - y) ** 2, axis=1)) / 2

    return loss, params


def dense_layers(activation: Callable[[Array], Array], width: int, layers: int) -> Callable[[Any], Network]:
    """Dense layers with an activation between them."""
    sizes = (64, *[width] * (layers - 1), CLASSES)

    def network(key: Any) -> Network:
        keys = jax.random.split(key, layers)
        params = [_dense(key, *shape) for key, shape in zip(keys, zip(sizes, sizes[1:]), strict=True)]  # noqa: B905, RUF007

        def apply(params: Params, images: Images) -> Array:
            z = images.reshape(len(images), -1)
            for layer in params[:-1]:
                z = activation(_times(layer, z))
            return _times(params[-1], z)

        return Network(params, apply)

    return network


def convolutions(channels: tuple[int, ...]) -> Callable[[Any], Network]:
    """3 x 3 convolutions with GELU, each after the first with stride 2, and a mean pool."""

    def network(key: Any) -> Network:
        *keys, last = jax.random.split(key, len(channels) + 1)
        sizes = zip((1, *channels), channels, strict=False)
        params = [_dense(key, 9 * a, b) for key, (a, b) in zip(keys, sizes, strict=True)]
        params.append(_dense(last, channels[-1], CLASSES))

        def apply(params: Params, images: Images) -> Array:
            z = images[..., None]
            for i, layer in enumerate(params[:-1]):
                z = jax.nn.gelu(_times(layer, _neighbours(z, 2 if i else 1)), approximate=False)
            return _times(params[-1], jnp.mean(z, axis=(1, 2)))

        return Network(params, apply)

    return network


def vision_transformer(width: int, heads: int, blocks: int) -> Callable[[Any], Network]:
    """A vision transformer: tokens of 2 x 2 pixels, pre-norm attention and GELU layers, a mean pool."""

    def network(key: Any) -> Network:
        first, last, places, *keys = jax.random.split(key, 3 + blocks)
        params = {
            "patches": _dense(first, 4, width),
            "positions": 0.1 * jax.random.normal(places, (16, width), float),
            "blocks": [
                {
                    name: _dense(key, a, b)
                    for key, (name, a, b) in zip(
                        jax.random.split(key, 4),
                        (
                            ("qkv", width, 3 * width),
                            ("attended", width, width),
                            ("in", width, 2 * width),
                            ("out", 2 * width, width),
                        ),
                        strict=True,
                    )
                }
                for key in keys
            ],
            "head": _dense(last, width, CLASSES),
        }

        def attention(block: Any, z: Array) -> Array:
            qkv = _times(block["qkv"], z).reshape(*z.shape[:2], 3, heads, -1)
            q, k, v = jnp.moveaxis(qkv, 2, 0)
            weights = jax.nn.softmax(jnp.einsum("nihd,njhd->nhij", q, k) * q.shape[-1] ** -0.5, axis=-1)
            return _times(block["attended"], jnp.einsum("nhij,njhd->nihd", weights, v).reshape(z.shape))

        def apply(params: Params, images: Images) -> Array:
            patches = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
            z = _times(params["patches"], patches) + params["positions"][None]
            for block in params["blocks"]:
                z = z + attention(block, _normalised(z))
                hidden = jax.nn.gelu(_times(block["in"], _normalised(z)), approximate=False)
                z = z + _times(block["out"], hidden)
            return _times(params["head"], jnp.mean(_normalised(z), axis=1))

        return Network(params, apply)

    return network


def _dense(key: Any, inputs: int, outputs: int) -> dict[str, Array]:
    weight = jax.random.normal(key, (inputs, outputs), float) / inputs**0.5
    return {"weight": weight, "bias": jnp.zeros(outputs)}


def _times(layer: dict[str, Array], z: Array) -> Array:
    y = z @ layer["weight"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)


def _neighbours(z: Float[Array, "n h w c"], stride: int) -> Float[Array, "n H W 9*c"]:
    """The 3 x 3 patch around every pixel, zero-padded; its product with weights is a convolution."""
    _, h, w, _ = z.shape
    padded = jnp.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + h : stride, j : j + w : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1)


def _normalised(z: Array) -> Array:
    """Every token with zero mean and unit variance."""
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
