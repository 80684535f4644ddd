"""The networks on which costs are measured: a dense one, and those of the library on random images."""

import jax
import jax.numpy as jnp

from implicit_adam.networks.named import choices, network

WIDTHS = (128, 192, 192, 192, 10)


def dense_params(widths=WIDTHS, dtype=jnp.float32):
    """Gaussian weights with variance 1 / fan-in and zero biases; 10^5 parameters by default."""
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    return [
        (jax.random.normal(key, (a, b), dtype) / a**0.5, jnp.zeros(b, dtype))
        for key, a, b in zip(keys, widths, widths[1:], strict=False)
    ]


def dense_loss(params, batch):
    """The mean cross-entropy of a tanh network."""
    x, y = batch
    for W, b in params[:-1]:
        x = jnp.tanh(x @ W + b)
    W, b = params[-1]
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(x @ W + b), axis=-1))


def dense_batches(m: int, samples: int, widths=WIDTHS, dtype=jnp.float32):
    """m batches of `samples` random samples each."""
    x = jax.random.normal(jax.random.key(1), (m, samples, widths[0]), dtype)
    labels = jax.random.randint(jax.random.key(2), (m, samples), 0, widths[-1])
    return x, jax.nn.one_hot(labels, widths[-1], dtype=dtype)


def on_images(model: str, width: int, samples: int, pixels: int):
    """The mean cross-entropy of a network of the library, its parameters, and a batch of random images."""
    net = network(choices(model, width=width), 10)
    images = jax.random.normal(jax.random.key(1), (samples, pixels, pixels, 3))
    labels = jax.nn.one_hot(jax.random.randint(jax.random.key(2), (samples,), 0, 10), 10)

    def loss(params, batch):
        images, labels = batch
        return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(net.apply(params, images)[0]), axis=-1))

    return loss, net.init(jax.random.key(0)), (images, labels)


def size(params) -> int:
    """The number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
