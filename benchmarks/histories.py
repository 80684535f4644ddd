"""Costs that grow with the number of steps: given schedules, and optax transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_adam as ia
from benchmarks.fields import field
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import dense_batches, dense_loss, dense_params, size
from benchmarks.timing import alternate
from implicit_adam.losses.problems import digits


def given_schedule(samples: int, n: int) -> Measure:
    """The field at step n of a random order of m = 8 mini-batches, in units of all gradients by `lax.map`."""
    params, batches = dense_params(), dense_batches(8, samples)
    schedule = jnp.asarray(np.random.default_rng(0).integers(8, size=n + 1))
    evaluate = jax.jit(field)

    @jax.jit
    def gradients(params, batches):
        return jax.lax.map(lambda batch: jax.grad(dense_loss)(params, batch), batches)

    timings = alternate({
        "field": lambda: evaluate(jnp.asarray(n), params, batches, schedule=schedule),
        "gradients by lax.map": lambda: gradients(params, batches),
    }, repeats=3)  # fmt: skip
    what = f"mini-batch field, given schedule, {size(params)} parameters, 8 x {samples} samples, n = {n}"
    return ratio(what, timings, "field", "gradients by lax.map", "<=", 6.5)


def optax_flow(steps: int) -> Measure:
    """The flow of `optax.adam`, whose memories are found by trying it, compared with that of `ia.Adam`."""
    problem = digits(batches=1)
    rules = {
        "ia.Adam": ia.Adam(1e-3, eps=1e-2),
        "optax.adam": ia.Optax(1e-3, optax.adam(1.0, eps=1e-2)),
    }

    @partial(jax.jit, static_argnums=0)
    def end(name: str, params):
        return ia.flow(rules[name], problem.mean_loss, params, steps, save_every=steps).params

    timings = alternate({
        name: lambda name=name: end(name, problem.params) for name in rules
    }, repeats=3)  # fmt: skip
    return ratio(f"flow over {steps} steps, digits network", timings, "optax.adam", "ia.Adam", "<=", 5.0)


MEASURES: Measures = {
    "given-schedule-1000": partial(given_schedule, 2048, 1000),
    "given-schedule-10000": partial(given_schedule, 2048, 10**4),
    "given-schedule-small-10000": partial(given_schedule, 256, 10**4),
    "optax-flow-100": partial(optax_flow, 100),
}
