"""Passes over data larger than memory, one micro-batch at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Int32, UInt8

from implicit_adam.datasets import normalised
from implicit_adam.loops import scanned_sum
from implicit_adam.networks.base import Images, Logits, Network, Statistics, is_right
from implicit_adam.types import Params, Scalar

Order = Int[Array, "m micro_batch"]


class Examples(NamedTuple):
    """Images as bytes, their labels, and the mean and standard deviation that normalise them."""

    images: UInt8[Array, "n height width channels"]
    labels: Int32[Array, " n"]
    mean: Float32[Array, " channels"]
    std: Float32[Array, " channels"]

    def at(self, indices: Int[Array, " k"]) -> tuple[Images, Int32[Array, " k"]]:
        """The images at these indices, normalised, and their labels."""
        return normalised(self.images[indices], self.mean, self.std), self.labels[indices]


class FullBatch(NamedTuple):
    """Means over the micro-batches: the loss, its gradient and the statistics of the normalisations."""

    loss: Scalar
    gradient: Params
    statistics: Statistics


def cross_entropy(logits: Logits, labels: Int32[Array, " n"]) -> Scalar:
    """The mean of -log softmax(logits)[label]."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -jnp.mean(chosen)


def full_batch(
    network: Network, params: Params, examples: Examples, order: Order, statistics: Statistics = None
) -> FullBatch:
    """Loss and gradient, as means over the micro-batches whose image indices are the rows of `order`.

    Without `statistics` each micro-batch is normalised by its own, and the gradient passes through them.
    """

    def loss(params: Params, indices: Array) -> tuple[Scalar, Statistics]:
        images, labels = examples.at(indices)
        logits, seen = network.apply(params, images, statistics)
        return cross_entropy(logits, labels), seen

    def one(indices: Array) -> FullBatch:
        (value, seen), gradient = jax.value_and_grad(loss, has_aux=True)(params, indices)
        return FullBatch(value, gradient, seen)

    return _mean(one, order)


def measured_statistics(network: Network, params: Params, examples: Examples, order: Order) -> Statistics:
    """The statistics for "frozen" normalisation: the mean over the micro-batches of their own statistics."""
    return _mean(lambda indices: network.apply(params, examples.at(indices)[0])[1], order)


def accuracy(
    network: Network, params: Params, examples: Examples, size: int, statistics: Statistics = None
) -> Scalar:
    """The fraction of correctly classified images, in float32, computed for `size` images at a time."""
    n = examples.labels.shape[0]
    # The last piece is padded with images that are not counted.
    indices = jnp.arange(-(-n // size) * size).reshape(-1, size)

    def correct(row: Array) -> Array:
        images, labels = examples.at(jnp.minimum(row, n - 1))
        logits, _ = network.apply(params, images, statistics)
        return jnp.sum(is_right(logits, labels) & (row < n))

    return jnp.sum(jax.lax.map(correct, indices)).astype(jnp.float32) / n


def _mean(f: Callable[[Array], Any], order: Order) -> Any:
    return jax.tree.map(lambda x: x / len(order), scanned_sum(f, order))
