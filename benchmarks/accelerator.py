"""The cost of the field on an accelerator, skipped where JAX finds none."""

from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import fields
from benchmarks.measure import Measure, Measures, Missing


def _on_accelerator(measurement) -> Measure | Missing:
    if jax.default_backend() == "cpu":
        return Missing("an accelerator")
    return measurement()


MEASURES: Measures = {
    "accelerator-full-batch-field": partial(_on_accelerator, partial(fields.full_batch, jnp.float32)),
    "accelerator-mini-batch-field": partial(
        _on_accelerator, partial(fields.mini_batch, jnp.float32, 2048, 10**4)
    ),
}
