"""Passes over data larger than memory: micro-batch after micro-batch, holding one at a time."""

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
        """Some of the images, normalised, and their labels."""
        return normalised(self.images[indices], self.mean, self.std), self.labels[indices]


class FullBatch(NamedTuple):
    """Means over the micro-batches: the loss, its gradient and the statistics that the normalisations saw."""

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
    """Loss and gradient of the mean over the micro-batches whose indices are the rows of `order`.

    Without `statistics` each micro-batch is normalised by its own, through which the gradient passes.
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
    """The mean over the micro-batches of the means and variances that each would be normalised by."""
    return _mean(lambda indices: network.apply(params, examples.at(indices)[0])[1], order)


def accuracy(
    network: Network, params: Params, examples: Examples, size: int, statistics: Statistics = None
) -> Scalar:
    """The fraction of images whose label has the largest logit, `size` images at a time, in float32."""
    n = examples.labels.shape[0]
    # The last piece is filled up with images that count for nothing.
    indices = jnp.arange(-(-n // size) * size).reshape(-1, size)

    def correct(row: Array) -> Array:
        images, labels = examples.at(jnp.minimum(row, n - 1))
        logits, _ = network.apply(params, images, statistics)
        return jnp.sum(is_right(logits, labels) & (row < n))

    return jnp.sum(jax.lax.map(correct, indices)).astype(jnp.float32) / n


def _mean(f: Callable[[Array], Any], order: Order) -> Any:
    return jax.tree.map(lambda x: x / len(order), scanned_sum(f, order))
