"""Measures how well equations predict a whole run: the distance in parameters, and the loss."""

import warnings
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.batches import check_batches
from implicit_adam.losses.problems import Problem
from implicit_adam.rules import AbstractOptimizer, Adam, RMSProp
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.flow import flow
from implicit_adam.runs.iterate import iterate
from implicit_adam.runs.validity import OutsideRangeWarning
from implicit_adam.studies.ensembles import reshuffled_runs, shuffled_runs
from implicit_adam.studies.norm_rates import norm_rates
from implicit_adam.types import Params

# The equations, and the optimizer itself from a nearby start.
CARRIED, PLAIN, CORRECTED, NEARBY = "carried memory", "plain flow", "corrected flow", "nearby start"
# The nearby start adds this times a standard normal variable to every component.
NUDGE = 1e-6


class Prediction(NamedTuple):
    """An optimizer at the saved steps (saves,), and by name the equations that are compared with it.

    - `loss`: the loss over all mini-batches along the optimizer; the mean over the runs if there are several.
    - `predicted_loss`: the same along each equation.
    - `error`: ||theta - optimizer|| of each equation, over the largest distance that the optimizer travels;
      for several runs, of their mean. `sampling_error`: the standard error of that mean; 0 for one run.
    - `gradients`: how many full-batch gradients the optimizer and the equation with carried memory took.
    - `norm_rate`: the `norm_rates` (saves - 1,) for Adam and RMSProp in full batch; otherwise empty.
    """

    steps: np.ndarray
    loss: np.ndarray
    predicted_loss: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    sampling_error: np.ndarray
    gradients: np.ndarray
    norm_rate: dict[str, np.ndarray]


def predict(
    rule: AbstractOptimizer, problem: Problem, steps: int, saves: int, *, runs: int = 1, flows: bool = False
) -> Prediction:
    """Run an optimizer on a problem and compare it with the equations for it at `saves` steps.

    A full-batch `problem` has one mini-batch. With several, the optimizer runs `runs` times, every epoch in a
    new order, and the equation with carried memory is that of the mean run.

    - `flows`: solve the plain and the corrected flow, too (full batch only, some 10 gradients a step).
    """
    m, every = check_batches(problem.batches), steps // saves
    options: Any = {"save_every": every}
    if m == 1:
        loss, batches = problem.mean_loss, None
        optimizer = iterate(rule, loss, problem.params, steps, **options).params
        ensemble = jax.tree.map(lambda x: x[None], optimizer)
    else:
        loss, batches = problem.loss, problem.batches
        ensemble = reshuffled_runs(rule, problem, steps, runs, every)
    carried = carried_flow(rule, loss, problem.params, steps, batches=batches, memories=True, **options)
    found = {CARRIED: carried.params}
    if flows:
        found |= _flows(rule, problem, steps, options)
    if m == 1:
        found[NEARBY] = iterate(rule, loss, nudged(problem.params), steps, **options).params
    rates = norm_rates(rule, loss, carried) if m == 1 and isinstance(rule, Adam | RMSProp) else {}
    gradients = np.asarray([steps / m, float(np.asarray(carried.solver_steps))])
    return _compared(problem, np.arange(0, steps + 1, every), ensemble, found, gradients, rates)


def predict_batch_size(
    rule: AbstractOptimizer, problem: Problem, size: int, steps: int, saves: int, runs: int
) -> Prediction:
    """Predict the mean of runs with batches of `size` samples from the gradients of single samples.

    Each mini-batch of `problem` holds one sample. The runs shuffle the samples every epoch.
    """
    samples, every = check_batches(problem.batches), steps // saves
    noise = (samples / size - 1) / (samples - 1)
    options: Any = {"batches": problem.batches, "noise": noise, "save_every": every}
    carried = carried_flow(rule, problem.loss, problem.params, steps, **options)
    ensemble = shuffled_runs(rule, problem, size, steps, runs, every)
    gradients = np.asarray([steps * size / samples, float(np.asarray(carried.solver_steps))])
    return _compared(
        problem, np.arange(0, steps + 1, every), ensemble, {CARRIED: carried.params}, gradients, {}
    )


def _compared(
    problem: Problem,
    steps: np.ndarray,
    ensemble: Params,
    found: dict[str, Params],
    gradients: np.ndarray,
    rates: dict[str, np.ndarray],
) -> Prediction:
    """Compare the `found` points with the mean of `ensemble`, which has a leading axis of runs."""
    thetas = jax.vmap(vectors)(ensemble)
    mean, apart = jnp.mean(thetas, 0), jnp.linalg.norm(jnp.std(thetas, 0), axis=-1)
    travelled = jnp.max(jnp.linalg.norm(mean - mean[:1], axis=1))
    losses = jax.jit(lambda points: jax.lax.map(problem.mean_loss, points))
    return Prediction(
        steps=steps,
        loss=np.mean([losses(jax.tree.map(lambda x, i=i: x[i], ensemble)) for i in range(len(thetas))], 0),
        predicted_loss={name: np.asarray(losses(points)) for name, points in found.items()},
        error={
            name: np.asarray(jnp.linalg.norm(vectors(points) - mean, axis=1) / travelled)
            for name, points in found.items()
        },
        sampling_error=np.asarray(apart / travelled / max(1, len(thetas) - 1) ** 0.5),
        gradients=gradients,
        norm_rate=rates,
    )


def _flows(rule: AbstractOptimizer, problem: Problem, steps: int, options: Any) -> dict[str, Params]:
    options = {"solver": diffrax.Tsit5(), **options}
    with warnings.catch_warnings():
        # These runs are meant to show that the flows are outside their range here.
        warnings.simplefilter("ignore", OutsideRangeWarning)
        return {
            name: flow(rule, problem.mean_loss, problem.params, steps, order=order, **options).params
            for name, order in ((PLAIN, 0), (CORRECTED, 1))
        }


def nudged(params: Params) -> Params:
    """A nearby start: every component plus `NUDGE` times a standard normal variable."""
    return jax.tree.map(jnp.add, params, random_move(params, NUDGE, 1))


def random_move(params: Params, size: float, draw: int) -> Params:
    """`size` times a standard normal number in every component; `draw` numbers the random draws."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(draw), len(leaves))

    def one(x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.asarray(size, x.dtype) * jax.random.normal(key, x.shape, x.dtype)

    return structure.unflatten(map(one, leaves, keys))


def vectors(points: Params) -> jax.Array:
    """The points as an array (saves, p), in float64."""
    return jnp.concatenate([x.reshape(len(x), -1).astype(float) for x in jax.tree.leaves(points)], axis=1)
