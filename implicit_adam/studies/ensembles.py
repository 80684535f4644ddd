"""Ensembles of seeded runs of an optimizer over random mini-batches, with a leading axis of runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.batches import check_batches
from implicit_adam.losses.problems import Problem
from implicit_adam.rules import AbstractOptimizer
from implicit_adam.runs.iterate import iterate
from implicit_adam.types import Params


def reshuffled_runs(rule: AbstractOptimizer, problem: Problem, steps: int, runs: int, every: int) -> Params:
    """Runs over the problem's mini-batches, in a new random order every epoch."""
    m = check_batches(problem.batches)
    epochs = np.tile(np.arange(m), (runs, -(-steps // m), 1))
    schedules = np.random.default_rng(0).permuted(epochs, axis=2).reshape(runs, -1)[:, :steps]

    def one(schedule: jax.Array) -> Params:
        arguments: Any = {"batches": problem.batches, "schedule": schedule, "save_every": every}
        return iterate(rule, problem.loss, problem.params, steps, **arguments).params

    return jax.jit(jax.vmap(one))(jnp.asarray(schedules))


def shuffled_runs(
    rule: AbstractOptimizer, problem: Problem, size: int, steps: int, runs: int, every: int
) -> Params:
    """Runs with mini-batches of `size` samples, drawn anew every epoch.

    Each of the problem's own mini-batches must hold one sample.
    """
    samples = check_batches(problem.batches)
    data = jax.tree.map(lambda x: x.reshape(samples, *x.shape[2:]), problem.batches)

    def loss(params: Params, drawn: jax.Array) -> jax.Array:
        return problem.loss(params, jax.tree.map(lambda x: x[drawn], data))

    def one(drawn: jax.Array) -> Params:
        once: Any = {"batches": drawn, "schedule": jnp.arange(steps), "save_every": every}
        return iterate(rule, loss, problem.params, steps, **once).params

    epochs = np.tile(np.arange(samples), (runs, -(-steps // (samples // size)), 1))
    shuffled = np.random.default_rng(0).permuted(epochs, axis=2)
    drawn = shuffled[..., : samples // size * size].reshape(runs, -1, size)
    return jax.jit(jax.vmap(one))(jnp.asarray(drawn[:, :steps]))
