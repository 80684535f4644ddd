"""Convolution, dense layer, pooling, and their starts."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from implicit_adam.networks.base import PARAMETER_DTYPE, Activations
from implicit_adam.networks.initial import Initial

# What a recomputing backward pass keeps: products and statistics are dear, the rest is cheap to redo.
STORED = "stored"


def conv_initial(size: int, inputs: int, outputs: int) -> Initial:
    """He's start as torchvision's ResNets have it: Gaussian of variance 2 / (size^2 outputs)."""
    return Initial((size, size, inputs, outputs), "gaussian", (2 / (size**2 * outputs)) ** 0.5)


def conv(weight: Float[Array, "size size inputs outputs"], x: Activations, stride: int = 1) -> Activations:
    """Convolution without bias, padded alike on both sides (as "SAME" is not where the stride is 2)."""
    pad = (weight.shape[0] - 1) // 2
    y = jax.lax.conv_general_dilated(
        x,
        weight.astype(x.dtype),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return checkpoint_name(y, STORED)


def dense_initial(inputs: int, outputs: int) -> dict[str, Initial]:
    """Weight and bias uniform in +-1 / sqrt(inputs), as PyTorch has them."""
    bound = inputs**-0.5
    return {
        "weight": Initial((inputs, outputs), "uniform", bound),
        "bias": Initial((outputs,), "uniform", bound),
    }


def dense(params: dict[str, Array], x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
    """x weight + bias along the last axis."""
    y = x @ params["weight"].astype(x.dtype)
    return y + jnp.broadcast_to(params["bias"].astype(x.dtype), y.shape)


def pooled(x: Activations) -> Float[Array, "n channels"]:
    """The mean over all positions, in float32."""
    wide = x.astype(PARAMETER_DTYPE)
    return jnp.mean(wide, axis=tuple(range(1, x.ndim - 1)))
