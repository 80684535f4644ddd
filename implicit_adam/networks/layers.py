"""Convolution, dense layer and pooling, with their initialisations."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from implicit_adam.networks.base import PARAMETER_DTYPE, Activations
from implicit_adam.networks.initial import Initial

# The values that a rematerialising backward pass keeps: products and statistics, costly to compute again.
STORED = "stored"


def conv_initial(size: int, inputs: int, outputs: int) -> Initial:
    """He initialisation as in torchvision's ResNets: Gaussian with variance 2 / (size^2 outputs)."""
    return Initial((size, size, inputs, outputs), "gaussian", (2 / (size**2 * outputs)) ** 0.5)


def conv(weight: Float[Array, "size size inputs outputs"], x: Activations, stride: int = 1) -> Activations:
    """Convolution without bias, with equal padding on both sides (unlike "SAME" at stride 2)."""
    convolved = _as_a_product if jax.default_backend() == "cpu" else _as_it_is
    return checkpoint_name(convolved(weight.astype(x.dtype), x, stride), STORED)


def _as_it_is(weight: Array, x: Activations, stride: int) -> Activations:
    pad = (weight.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _as_a_product(weight: Array, x: Activations, stride: int) -> Activations:
    """The convolution as a matrix product of patches, for CPUs.

    On a CPU, XLA's gradient of a convolution takes ten times as long inside a loop as outside
    (https://github.com/jax-ml/jax/issues/12868), and vmapped over weights it is a slow grouped convolution.
    """
    size, _, inputs, outputs = weight.shape
    return patches(x, size, stride) @ weight.reshape(size * size * inputs, outputs)


def patches(x: Activations, size: int, stride: int = 1) -> Activations:
    """The size x size patch around every position, zero-padded at the edges, along the last axis."""
    pad = (size - 1) // 2
    rows, columns = ((side + 2 * pad - size) // stride + 1 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def shifted(i: int, j: int) -> Activations:
        last_row, last_column = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
        return x[:, i:last_row:stride, j:last_column:stride]

    return jnp.concatenate([shifted(i, j) for i in range(size) for j in range(size)], axis=-1)


def dense_initial(inputs: int, outputs: int) -> dict[str, Initial]:
    """Weight and bias uniform in +-1 / sqrt(inputs), as in PyTorch."""
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
