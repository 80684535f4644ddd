"""Full-batch Adam on a small smooth network and real digits: many hyperparameters and seeds in one sweep.

Every run is predicted by the equation with carried memory from the same start.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from implicit_adam.bias.bias import perturbed_one_norm
from implicit_adam.checks.numbers import check_seeds
from implicit_adam.losses.problems import load_digits
from implicit_adam.measures.training_regime import regime_of_losses
from implicit_adam.networks.passes import cross_entropy
from implicit_adam.networks.residual import accuracy, residual_logits, residual_params
from implicit_adam.paper.claims import Advance
from implicit_adam.rules import Adam
from implicit_adam.rules.from_optax.rule import raveled_transformation
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.sweeps import sweep
from implicit_adam.types import Params, Scalar, Vector


@dataclass(frozen=True)
class NetworkConfig:
    """The network and data, and the values of beta, rho and the seed, of which all combinations are run."""

    beta: tuple[float, ...]
    rho: tuple[float, ...]
    h: float = 3e-4
    eps: float = 1e-8
    epochs: int = 800
    # Seeds of the weights; the split of the data is the same for all.
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    # The number of training images, the first of a fixed shuffle; the others, of 1797, are for testing.
    train: int = 200
    channels: int = 8
    blocks: int = 2
    # Batch normalisation, over all training images (also for the test images), after each convolution.
    normalised: bool = False
    # The number of epochs between two tests, and between two points of the prediction.
    test_every: int = 10

    def trained(self, advance: Advance) -> "NetworkRuns":
        """Train all runs in one sweep, as many at a time as there are devices."""
        return train_networks(self, advance)


class NetworkRuns(NamedTuple):
    """Curves over the epochs, before each step, with axes (beta, rho, seed, epochs).

    `norm` is the perturbed one-norm of the full-batch gradient, `accuracy` that on the test images every
    `test_every` epochs (on the digits after them, on CIFAR before them). `regime` (beta, rho, seed) indexes
    `REGIMES`, and p is the number of parameters. `predicted` (beta, rho, seed, looks) is the norm along the
    equation with carried memory before the epochs 0, test_every, 2 test_every, ..; on CIFAR it is empty.
    """

    beta: np.ndarray
    rho: np.ndarray
    loss: np.ndarray
    norm: np.ndarray
    accuracy: np.ndarray
    regime: np.ndarray
    p: np.ndarray
    predicted: np.ndarray


class Data(NamedTuple):
    images: jax.Array
    labels: jax.Array


def train_networks(config: NetworkConfig, advance: Advance) -> NetworkRuns:
    """Train all runs of the config; raises `ValueError` for seeds that are not different integers >= 0."""
    check_seeds(config.seeds)
    grid = {"beta": np.asarray(config.beta), "rho": np.asarray(config.rho), "seed": np.asarray(config.seeds)}
    at = _training(replace(config, beta=(), rho=(), seeds=()))
    found = sweep(at, grid, chunk_size=1, progress=lambda done, lanes: advance(done / lanes)).values
    losses = found["loss"].reshape(-1, config.epochs)
    regime = jax.jit(jax.vmap(lambda E: regime_of_losses(E).regime))(losses)
    p = ravel_pytree(_start(config, 0))[0].size
    return NetworkRuns(
        beta=grid["beta"],
        rho=grid["rho"],
        loss=found["loss"],
        norm=found["norm"],
        accuracy=found["accuracy"],
        regime=np.asarray(regime).reshape(found["loss"].shape[:3]),
        p=np.asarray(p),
        predicted=found["predicted"],
    )


def _digits(train: int) -> tuple[Data, Data]:
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    X = jnp.asarray(images[order].reshape(-1, 8, 8) / 16, jnp.float32)
    y = jnp.asarray(labels[order], jnp.int32)
    return Data(X[:train], y[:train]), Data(X[train:], y[train:])


def _start(config: NetworkConfig, seed: Any) -> Params:
    size = {"channels": config.channels, "blocks": config.blocks}
    return residual_params(jax.random.key(seed), **size, normalised=config.normalised)


@cache
def _training(config: NetworkConfig) -> Callable[..., dict[str, jax.Array]]:
    # The same function for the same settings, so that `sweep` compiles it once for all panels of the figures.
    train, test = _digits(config.train)

    def at(beta: Any, rho: Any, seed: Any) -> dict[str, jax.Array]:
        theta, unravel = ravel_pytree(_start(config, seed))
        images = jnp.concatenate([train.images, test.images])
        rule = Adam(config.h, beta, rho, config.eps, eps_in_sqrt=True).astype(theta.dtype)
        optimizer = raveled_transformation(rule.transformation(), unravel)

        def loss(theta: Vector) -> Scalar:
            return cross_entropy(residual_logits(unravel(theta), train.images), train.labels)

        def norm_at(theta: Vector) -> Scalar:
            return perturbed_one_norm(jax.grad(loss)(theta), config.eps, eps_in_sqrt=True)

        def epoch(carry: Any, _: None) -> Any:
            theta, state = carry
            E, g = jax.value_and_grad(loss)(theta)
            updates, state = optimizer.update(g, state, theta)
            return (theta + updates, state), (E, perturbed_one_norm(g, config.eps, eps_in_sqrt=True))

        def until_test(carry: Any, _: None) -> Any:
            carry, curves = jax.lax.scan(epoch, carry, length=config.test_every)
            logits = residual_logits(unravel(carry[0]), images, len(train.images))[len(train.images) :]
            right = accuracy(logits, test.labels)
            return carry, (*curves, right)

        tests = config.epochs // config.test_every
        _, (E, norm, right) = jax.lax.scan(until_test, (theta, optimizer.init(theta)), length=tests)
        flow = carried_flow(rule, loss, theta, config.epochs, save_every=config.test_every)
        predicted = jax.lax.map(norm_at, flow.params[:-1])
        return {"loss": E.ravel(), "norm": norm.ravel(), "accuracy": right, "predicted": predicted}

    return at
