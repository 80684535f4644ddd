"""Section 5: full-batch training of networks on images, recording the norms in Adam's bias."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.numbers import check_count
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.datasets import ImageData, channel_statistics
from implicit_adam.networks import choices, network
from implicit_adam.networks.base import PARAMETER_DTYPE
from implicit_adam.networks.passes import Examples
from implicit_adam.paper.training.epoch import Setup, epoch_step, names, start, tested
from implicit_adam.paper.training.resumable import Logs, described, resumable
from implicit_adam.rules import AbstractOptimizer
from implicit_adam.rules.from_optax.rule import as_optimizer

Callback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class FullBatchConfig:
    """The network to train and its measurements. None takes the model's default (networks.MODELS).

    With batch statistics, the accuracy uses their average over the training micro-batches at the same
    parameters (PyTorch's running average is a smoothed version of it); "frozen" keeps its constants.
    """

    model: str = "resnet50"
    normalisation: str | None = None
    activation: str | None = None
    width: int | None = None
    # Of the forward pass; parameters, gradients and optimizer are float32. jax.default_matmul_precision sets
    # the precision of float32 products; by default, recent GPUs round their factors.
    dtype: str = "float32"
    # The number of images processed at a time, and with "ghost" also normalised together.
    micro_batch: int = 500
    epochs: int = 100
    test_every: int = 10
    checkpoint_every: int = 10


def run(
    config: FullBatchConfig,
    data: ImageData,
    rule: Any,
    *,
    seed: int = 0,
    folder: Any = None,
    callback: Callback | None = None,
) -> dict[str, np.ndarray]:
    """Train in full batch; returns measurements at the parameters before each step, one entry per epoch.

    `seed` draws the weights and, with "ghost", the micro-batches.

    - "loss", and of its gradient "one_norm", "two_norm" and, for rules with an eps in or outside a root,
      "perturbed_one_norm" (with the rule's own eps and placement).
    - "accuracy" on the test images, at the epochs "accuracy_epoch" = 0, test_every, 2 test_every, ..
    - "finite": false if the run ended early, at the first epoch whose loss or norms are not finite; the
      entries are those before it.

    With a `folder` the run is saved there every `checkpoint_every` epochs and at its end. The same call
    continues from there, to the same bits as without a break if the device is deterministic; `epochs` and
    `checkpoint_every` may change between calls. `callback(epoch, entries)` is called after every epoch. Runs
    with the same settings and shapes compile once for all hyperparameters and seeds. Raises `ValueError` for
    bad arguments and for a folder that holds another run.
    """
    rule = as_optimizer(rule)
    check_rule(rule, AbstractOptimizer)
    rule, setup = rule.astype(PARAMETER_DTYPE), checked_setup(config, data)
    check_count("seed", seed, least=0)
    store = resumable(folder, "full_batch", lambda: _fingerprint(config, seed, setup, data, rule))
    start_key, key = jax.random.split(jax.random.key(seed))
    train, test = _examples(data)
    found = None if store is None else store.load(eqx.filter_eval_shape(start, setup, rule, train, start_key))
    state, logs = found or (start(setup, rule, train, start_key), _empty(rule))
    saved = epoch = len(logs["loss"])
    while logs["finite"][0] and epoch < config.epochs:
        here = state.params
        state, seen, statistics = epoch_step(setup, rule, state, train, key, jnp.asarray(epoch))
        entries = {name: float(value) for name, value in seen.items()}
        if epoch % config.test_every == 0:
            entries |= {"accuracy": float(tested(setup, here, statistics, test)), "accuracy_epoch": epoch}
        logs = _extended(logs, entries)
        epoch = len(logs["loss"])
        if callback is not None and logs["finite"][0]:
            callback(epoch - 1, entries)
        ended = epoch == config.epochs or not logs["finite"][0]
        if store is not None and (ended or epoch - saved >= config.checkpoint_every):
            store.save(state, logs)
            saved = epoch
    return _result(config, logs)


def checked_setup(config: FullBatchConfig, data: ImageData) -> Setup:
    """The static settings, checked before anything runs.

    Raises `ValueError` for bad settings, and for data that they cannot use.
    """
    chosen = choices(
        config.model,
        normalisation=config.normalisation,
        activation=config.activation,
        dtype=config.dtype,
        width=config.width,
    )
    for name in ("micro_batch", "epochs", "test_every", "checkpoint_every"):
        check_count(name, getattr(config, name))
    setup = Setup(network(chosen, data.classes), chosen, config.micro_batch, len(data.train_labels))
    if setup.normalisation.whole_batch and config.micro_batch != setup.size:
        msg = (
            f"normalisation 'exact' takes its statistics over all {setup.size} training images, which needs "
            f"them in one piece: micro_batch must be {setup.size}, got {config.micro_batch}. Take fewer "
            "images, or another normalisation ('ghost': statistics of each micro-batch)"
        )
        raise ValueError(msg)
    if setup.size % config.micro_batch:
        fits = max(d for d in range(1, config.micro_batch) if setup.size % d == 0)
        msg = (
            f"micro_batch = {config.micro_batch} must divide the {setup.size} training images, so that all "
            f"micro-batches weigh the same; {fits} does"
        )
        raise ValueError(msg)
    return setup


def _examples(data: ImageData) -> tuple[Examples, Examples]:
    """The training and test images on the device, as bytes; both are normalised by the training images."""
    mean, std = (jnp.asarray(x) for x in channel_statistics(data.train_images))
    train, test = (
        Examples(jnp.asarray(images), jnp.asarray(labels), mean, std)
        for images, labels in (
            (data.train_images, data.train_labels),
            (data.test_images, data.test_labels),
        )
    )
    return train, test


def _fingerprint(
    config: FullBatchConfig, seed: int, setup: Setup, data: ImageData, rule: AbstractOptimizer
) -> dict[str, Any]:
    """Everything that a run's numbers depend on, without its length and how often it is saved."""
    digest = hashlib.sha256()
    for array in data[:4]:
        digest.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    own = {"micro_batch": config.micro_batch, "test_every": config.test_every, "seed": seed}
    return described(rule) | setup.choices._asdict() | own | {"data": digest.hexdigest()[:16]}


def _empty(rule: AbstractOptimizer) -> Logs:
    return {**{name: [] for name in (*names(rule), "accuracy", "accuracy_epoch")}, "finite": [1.0]}


def _extended(logs: Logs, entries: dict[str, float]) -> Logs:
    """The logs with an epoch's entries added, or with the flag that they were not finite."""
    if not np.isfinite(list(entries.values())).all():
        return logs | {"finite": [0.0]}
    return logs | {name: [*logs[name], entry] for name, entry in entries.items()}


def _result(config: FullBatchConfig, logs: Logs) -> dict[str, np.ndarray]:
    """The logs of the epochs asked for; a run kept in a folder may have gone further."""
    tests = -(-config.epochs // config.test_every)
    result = {
        name: np.asarray(values[: tests if name.startswith("accuracy") else config.epochs])
        for name, values in logs.items()
    }
    reached = len(result["loss"]) == config.epochs
    epochs = result["accuracy_epoch"].astype(int)
    return result | {"accuracy_epoch": epochs, "finite": np.asarray(reached)}
