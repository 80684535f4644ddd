"""One epoch of full-batch training, which is one step of the optimizer, compiled once for all numbers."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.bias.bias import perturbed_one_norm
from implicit_adam.networks import Network
from implicit_adam.networks.base import Key, Statistics
from implicit_adam.networks.named import Choices
from implicit_adam.networks.normalisation import NORMALISATIONS, Normalisation
from implicit_adam.networks.passes import Examples, Order, accuracy, full_batch, measured_statistics
from implicit_adam.rules import AbstractOptimizer
from implicit_adam.types import Params, Scalar, StepNumber
from implicit_adam.vectors import ravel


class Setup(NamedTuple):
    """The static settings of a compiled epoch; everything else is an argument."""

    network: Network
    choices: Choices
    micro_batch: int
    size: int

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation, and how the passes over the data must treat it."""
        return NORMALISATIONS[self.choices.normalisation]


class State(NamedTuple):
    """The parameters and optimizer state, and for "frozen" the statistics from the start."""

    params: Params
    optimizer: optax.OptState
    frozen: Statistics


@eqx.filter_jit
def start(setup: Setup, rule: AbstractOptimizer, train: Examples, key: Key) -> State:
    """The state before the first step."""
    params = setup.network.init(key)
    frozen = None
    if setup.normalisation.frozen:
        order = jnp.arange(setup.size).reshape(-1, setup.micro_batch)
        frozen = measured_statistics(setup.network, params, train, order)
    return State(params, _transformation(rule).init(params), frozen)


@eqx.filter_jit
def epoch_step(
    setup: Setup, rule: AbstractOptimizer, state: State, train: Examples, key: Key, epoch: StepNumber
) -> tuple[State, dict[str, Scalar], Statistics]:
    """Take one step; also returns the measurements before it, and the statistics to test with there."""
    order = _order(setup, key, epoch)
    loss, gradient, seen = full_batch(setup.network, state.params, train, order, state.frozen)
    updates, optimizer = _transformation(rule).update(gradient, state.optimizer, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    statistics = state.frozen if setup.normalisation.frozen else seen
    return State(params, optimizer, state.frozen), _shown(rule, loss, gradient), statistics


@eqx.filter_jit
def tested(setup: Setup, params: Params, statistics: Statistics, test: Examples) -> Scalar:
    """The accuracy on the test images, with micro-batches as large as in training."""
    size = min(setup.micro_batch, test.labels.shape[0])
    return accuracy(setup.network, params, test, size, statistics)


def names(rule: AbstractOptimizer) -> tuple[str, ...]:
    """The names of an epoch's measurements; the perturbed norm only for rules with an eps at a root."""
    perturbed = ("perturbed_one_norm",) if hasattr(rule, "eps_in_sqrt") else ()
    return ("loss", "one_norm", "two_norm", *perturbed)


def _order(setup: Setup, key: Key, epoch: StepNumber) -> Order:
    """The images of each micro-batch, divided anew every epoch if the normalisation depends on it."""
    indices = jnp.arange(setup.size)
    if setup.normalisation.reshuffled:
        indices = jax.random.permutation(jax.random.fold_in(key, epoch), indices)
    return indices.reshape(-1, setup.micro_batch)


def _shown(rule: Any, loss: Scalar, gradient: Params) -> dict[str, Scalar]:
    g = ravel(gradient)
    shown = {"loss": loss, "one_norm": jnp.sum(jnp.abs(g)), "two_norm": jnp.linalg.norm(g)}
    if "perturbed_one_norm" in names(rule):
        shown["perturbed_one_norm"] = perturbed_one_norm(g, rule.eps, eps_in_sqrt=rule.eps_in_sqrt)
    return shown


def _transformation(rule: AbstractOptimizer) -> optax.GradientTransformation:
    tx = rule.transformation()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax raises floating decays to the power of an integer count, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)
