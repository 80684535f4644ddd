"""The dense network on which fields are measured."""

import jax
import jax.numpy as jnp

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


def size(params) -> int:
    """The number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
