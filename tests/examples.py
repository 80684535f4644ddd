"""Small smooth losses whose gradients stay away from zero, with batches drawn from fixed seeds."""

import jax
import jax.numpy as jnp
import numpy as np

START = jnp.asarray([1.0, -0.7, 0.4])
M = 3


def batch_loss(theta, batch):
    A, c = batch
    return jnp.sum((A @ theta - c) ** 2) / 2 + jnp.sum(jnp.cos(theta)) / 5


def batches(seed=0, m=M, p=3):
    rng = np.random.default_rng(seed)
    A, c = rng.normal(size=(m, p, p)), rng.normal(size=(m, p))
    return jnp.asarray(A), jnp.asarray(c)


def full_loss(theta):
    return batch_loss(theta, jax.tree.map(lambda x: x[0], batches()))


def quartic(theta, batch):
    """Random cubic and quartic terms, so that no derivative that matters vanishes."""
    A, c = batch
    return batch_loss(theta, batch) + jnp.sum((A @ theta) ** 3) / 6 + jnp.sum(c * theta**4) / 24


def full_quartic(theta):
    return quartic(theta, jax.tree.map(lambda x: x[0], batches()))


def random_schedule(steps, seed=0, m=M):
    return jnp.asarray(np.random.default_rng(seed).integers(0, m, steps))


# The same parameters as a nested pytree, to keep pytree support honest.
def as_tree(theta):
    return {"a": [theta[0], theta[1:2]], "b": (theta[2:].reshape(1, 1),)}


def from_tree(tree):
    return jnp.concatenate([tree["a"][0][None], tree["a"][1], tree["b"][0].ravel()])


def tree_loss(tree, batch):
    return batch_loss(from_tree(tree), batch)
