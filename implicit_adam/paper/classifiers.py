"""Small smooth networks on scikit-learn's real data, each as a `Problem` of one or more mini-batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.losses.problems import Problem, digits, load_digits, network_loss, network_params
from implicit_adam.networks.named import choices, network
from implicit_adam.networks.passes import cross_entropy
from implicit_adam.types import Params


def deep_tanh(samples: int, batches: int) -> Problem:
    """Four dense layers 64-64-64-64-10 with tanh between them; 13130 parameters in float64."""
    images, labels = _drawn(samples, batches)
    sizes = (64, 64, 64, 64, 10)

    def loss(params: Params, batch: Any) -> jax.Array:
        x, labels = batch
        *hidden, last = params
        for weights, biases in hidden:
            x = jnp.tanh(x @ weights + biases[None])
        return cross_entropy(x @ last[0] + last[1][None], labels)

    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    params = tuple(
        (jax.random.normal(key, (a, b), float) / a**0.5, jnp.zeros(b))
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )
    return Problem("4-layer tanh network", loss, params, (jnp.asarray(images, float), labels))


def convolutional(samples: int, batches: int) -> Problem:
    """The CNN of `networks` with 8, 16 and 32 channels, batch normalisation and GELU, in float32."""
    return _classifier("CNN", samples, batches, 1, model="cnn", width=8, normalisation="exact")


def transformer(samples: int, batches: int) -> Problem:
    """The vision transformer of `networks` with tokens of length 12, one for each pixel, in float32."""
    return _classifier("transformer", samples, batches, 4, model="vit", width=12)


def two_layers(samples: int, batches: int) -> Problem:
    """The tanh network of `problems.digits`, 610 parameters."""
    return digits(samples=samples, batches=batches)._replace(name="2-layer tanh network")


def tabular(name: str, samples: int, batches: int) -> Problem:
    """A tanh layer of eight units on the standardised features of a table."""
    from sklearn import datasets

    table, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(table))[:samples]
    inputs = (table[order] - table[order].mean(0)) / table[order].std(0)
    targets = jax.nn.one_hot(labels[order], labels.max() + 1, dtype=float)
    split = [jnp.asarray(x).reshape(batches, -1, x.shape[-1]) for x in (inputs, targets)]
    params = network_params(jax.random.key(0), inputs.shape[1], 8, targets.shape[1])
    return Problem(name.replace("_", " "), network_loss, params, tuple(split))


# Functions of the numbers of samples and of batches.
CLASSIFIERS: dict[str, Callable[[int, int], Problem]] = {
    "2-layer tanh network": two_layers,
    "4-layer tanh network": deep_tanh,
    "CNN": convolutional,
    "transformer": transformer,
    "breast cancer": partial(tabular, "breast_cancer"),
    "wine": partial(tabular, "wine"),
}


def _classifier(name: str, samples: int, batches: int, grown: int, **chosen: Any) -> Problem:
    """A network of `networks` on the digits, in three equal channels, each pixel `grown` x `grown` large."""
    images, labels = _drawn(samples, batches)
    images = np.float32(images.reshape(batches, -1, 8, 8, 1) - 0.3)
    images = images.repeat(3, axis=4).repeat(grown, axis=2).repeat(grown, axis=3)
    model = network(choices(activation="gelu", **chosen), 10)

    def loss(params: Params, batch: Any) -> jax.Array:
        images, labels = batch
        return cross_entropy(model.apply(params, images)[0], labels)

    return Problem(name, loss, model.init(jax.random.key(0)), (jnp.asarray(images), labels))


def _drawn(samples: int, batches: int) -> tuple[np.ndarray, jax.Array]:
    """Images of digits (batches, n, 64) with values 0 .. 1, and their labels (batches, n)."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))[:samples].reshape(batches, -1)
    return images[order] / 16.0, jnp.asarray(labels[order], jnp.int32)
