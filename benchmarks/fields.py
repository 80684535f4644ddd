"""One evaluation of the field against the gradients that it cannot do without."""

from functools import partial

import jax
import jax.numpy as jnp

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import dense_batches, dense_loss, dense_params, size
from benchmarks.timing import alternate
from implicit_adam.types import Params


def gradients(params: Params, batches):
    """All batch gradients."""
    return jax.vmap(jax.grad(dense_loss), (None, 0))(params, batches)


def field(n, params: Params, batches, **kwargs) -> Params:
    """Adam's field at step n, exact or shifted."""
    rule = ia.Adam(1e-3, 0.9, 0.999, 1e-8, eps_in_sqrt=True)
    return ia.vector_field(rule, dense_loss, batches=batches, **kwargs)(n, params)


def operations(function, *arguments) -> float:
    """XLA's count of floating-point operations, the body of a loop once."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def _against_gradients(what: str, m: int, samples: int, n: int, target: float, *, dtype, shifted: bool):
    params, batches = dense_params(dtype=dtype), dense_batches(m, samples, dtype=dtype)
    step = jnp.asarray(n)
    evaluate, compiled = jax.jit(partial(field, shifted=shifted)), jax.jit(gradients)
    timings = alternate({
        "field": lambda: evaluate(step, params, batches),
        "gradients": lambda: compiled(params, batches),
    })  # fmt: skip
    counted = operations(partial(field, shifted=shifted), step, params, batches)
    facts = {"ratio of operations counted": counted / operations(gradients, params, batches)}
    what = f"{what}, {jnp.dtype(dtype).name}, {size(params)} parameters, {m} x {samples} samples, n = {n}"
    return ratio(what, timings, "field", "gradients", "<=", target, facts)


def full_batch(dtype, *, shifted: bool = False) -> Measure:
    """2048 samples."""
    what, target = ("shifted full-batch field", 2.0) if shifted else ("full-batch field", 3.0)
    return _against_gradients(what, 1, 2048, 100, target, dtype=dtype, shifted=shifted)


def mini_batch(dtype, samples: int, n: int, *, shifted: bool = False) -> Measure:
    """m = 8 batches of so many samples, cyclic."""
    what, target = ("shifted mini-batch field", 3.0) if shifted else ("mini-batch field", 5.0)
    return _against_gradients(what, 8, samples, n, target, dtype=dtype, shifted=shifted)


def growth() -> Measure:
    """What 10^4 steps of history cost more than 10."""
    params, batches = dense_params(), dense_batches(8, 2048)
    evaluate = jax.jit(field)
    steps = {f"n = {n}": jnp.asarray(n) for n in (10, 10**4)}
    timings = alternate({
        name: (lambda n=n: evaluate(n, params, batches)) for name, n in steps.items()
    })  # fmt: skip
    what = "mini-batch field, float32, 8 x 2048 samples"
    return ratio(what, timings, "n = 10000", "n = 10", "<=", 1.2)


MEASURES: Measures = {
    "full-batch-field": partial(full_batch, jnp.float32),
    "full-batch-field-64": partial(full_batch, jnp.float64),
    "full-batch-field-shifted": partial(full_batch, jnp.float32, shifted=True),
    "mini-batch-field-10": partial(mini_batch, jnp.float32, 2048, 10),
    "mini-batch-field-10000": partial(mini_batch, jnp.float32, 2048, 10**4),
    "mini-batch-field-64-10": partial(mini_batch, jnp.float64, 2048, 10),
    "mini-batch-field-64-10000": partial(mini_batch, jnp.float64, 2048, 10**4),
    "mini-batch-field-small-10": partial(mini_batch, jnp.float32, 256, 10),
    "mini-batch-field-small-10000": partial(mini_batch, jnp.float32, 256, 10**4),
    "mini-batch-field-shifted": partial(mini_batch, jnp.float32, 2048, 10**4, shifted=True),
    "history": growth,
}
