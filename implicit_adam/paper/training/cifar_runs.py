"""Figures 4 to 6 in the paper's own setting: networks on CIFAR, one run after the other, on a GPU."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import jax
import numpy as np

from implicit_adam.checks.numbers import check_seeds
from implicit_adam.datasets import ImageData, cifar
from implicit_adam.measures.training_regime import regime_of_losses
from implicit_adam.paper.claims import Advance
from implicit_adam.paper.training.full_batch import Callback, FullBatchConfig, checked_setup, run
from implicit_adam.paper.training.network_runs import NetworkRuns
from implicit_adam.rules import Adam

_TRAINING = FullBatchConfig(epochs=3600)


@dataclass(frozen=True)
class CifarConfig:
    """The settings of runs with all combinations of beta, rho and seed.

    Each run is kept in its own folder and continues where it stopped. eps is the paper's, inside the root
    (Definition 1.1).
    """

    data_dir: str
    folder: str
    beta: tuple[float, ...]
    rho: tuple[float, ...]
    h: float
    dataset: str = "cifar10"
    eps: float = 1e-8
    # A trend needs at least two seeds.
    seeds: tuple[int, ...] = (0, 1)
    # Files with fewer records than the official ones are refused unless this is set.
    allow_partial: bool = False
    training: FullBatchConfig = _TRAINING

    def load(self) -> ImageData:
        """Load the data; raises `ValueError` for anything wrong with them or with the settings."""
        check_seeds(self.seeds)
        Adam(self.h, self.beta[0], self.rho[0], self.eps, eps_in_sqrt=True)
        if self.training.epochs <= self.training.test_every:
            msg = (
                f"epochs = {self.training.epochs} must be more than test_every = {self.training.test_every}, "
                "or the network is tested at its start only"
            )
            raise ValueError(msg)
        data = cifar(self.dataset, self.data_dir, allow_partial=self.allow_partial)
        checked_setup(self.training, data)
        return data

    def trained(self, advance: Advance) -> NetworkRuns:
        """Train all runs."""
        data, points = self.load(), list(product(self.beta, self.rho, self.seeds))
        logs = []
        for i, point in enumerate(points):

            def tick(epoch: int, _: dict[str, float], i: int = i) -> None:
                advance((i + (epoch + 1) / self.training.epochs) / len(points))

            logs.append(_one(self, data, *point, tick))
            advance((i + 1) / len(points))
        return _stacked(self, data, logs)


def _one(
    config: CifarConfig, data: ImageData, beta: float, rho: float, seed: int, tick: Callback
) -> dict[str, np.ndarray]:
    name = f"{config.dataset}-{config.training.model}-h{config.h:g}-beta{beta:g}-rho{rho:g}-seed{seed}"
    rule = Adam(config.h, beta, rho, config.eps, eps_in_sqrt=True)
    return run(config.training, data, rule, seed=seed, folder=Path(config.folder) / name, callback=tick)


def _stacked(config: CifarConfig, data: ImageData, logs: list[dict[str, np.ndarray]]) -> NetworkRuns:
    shape = (len(config.beta), len(config.rho), len(config.seeds))
    epochs = config.training.epochs
    loss, norm, accuracy = (
        np.stack([_filled(log[name], length) for log in logs]).reshape(*shape, length)
        for name, length in (
            ("loss", epochs),
            ("perturbed_one_norm", epochs),
            ("accuracy", -(-epochs // config.training.test_every)),
        )
    )
    regime = jax.vmap(lambda E: regime_of_losses(E).regime)(loss.reshape(-1, epochs))
    return NetworkRuns(
        beta=np.asarray(config.beta),
        rho=np.asarray(config.rho),
        loss=loss,
        norm=norm,
        accuracy=accuracy,
        regime=np.asarray(regime).reshape(shape),
        p=np.asarray(_parameters(config, data)),
        predicted=np.zeros((*shape, 0)),
    )


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """The values of a run, filled with NaN up to `length` if it ended early."""
    return np.concatenate([values, np.full(length - len(values), np.nan)])


def _parameters(config: CifarConfig, data: ImageData) -> int:
    params = jax.eval_shape(checked_setup(config.training, data).network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
