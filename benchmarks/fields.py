"""The cost of one evaluation of the field, compared with the gradients that it needs at least."""

from functools import partial

import jax
import jax.numpy as jnp

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import dense_batches, dense_loss, dense_params, size
from benchmarks.timing import alternate
from implicit_adam.objective import AT_ONCE
from implicit_adam.types import Params


def gradients(params: Params, batches):
    """The gradients of all mini-batches."""
    return jax.vmap(jax.grad(dense_loss), (None, 0))(params, batches)


def field(n, params: Params, batches, **kwargs) -> Params:
    """Adam's field at step n, exact or shifted."""
    rule = ia.Adam(1e-3, 0.9, 0.999, 1e-8, eps_in_sqrt=True)
    return ia.vector_field(rule, dense_loss, batches=batches, **kwargs)(n, params)


def by_hand(n, params: Params, batch) -> Params:
    """Remark 3.2 with the same hyperparameters, written by hand: a jvp of the gradient, on pytrees."""
    h, beta, rho, eps = 1e-3, 0.9, 0.999, 1e-8

    def gradient(params: Params) -> Params:
        return jax.grad(dense_loss)(params, batch)

    def lag(decay):
        count = n.astype(jnp.float32) + 1
        return decay / (1 - decay) - count * decay**count / (1 - decay**count)

    def velocity(g, D):
        R = jnp.sqrt(g**2 + eps)
        by_rho, by_beta = (lag(rho) + 0.5) * g**2 * D / R**3, (lag(beta) + 0.5) * D / R
        return (-g / R + h * (by_rho - by_beta)).astype(g.dtype)

    F = jax.tree.map(lambda g: g / jnp.sqrt(g**2 + eps), gradient(params))
    return jax.tree.map(velocity, *jax.jvp(gradient, (params,), (F,)))


def operations(function, *arguments) -> float:
    """XLA's count of floating-point operations, which counts the body of a loop once."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def _against_gradients(what: str, m: int, samples: int, n: int, target: float, *, dtype, shifted: bool):
    params, batches = dense_params(dtype=dtype), dense_batches(m, samples, dtype=dtype)
    step = jnp.asarray(n)
    evaluate, compiled = jax.jit(partial(field, shifted=shifted)), jax.jit(gradients)
    timings = alternate({
        "field": lambda: evaluate(step, params, batches),
        "gradients": lambda: compiled(params, batches),
    })  # fmt: skip
    facts = {}
    if m <= AT_ONCE:
        # More mini-batches are a loop, whose body XLA counts once.
        counted = operations(partial(field, shifted=shifted), step, params, batches)
        facts = {"ratio of operations counted": counted / operations(gradients, params, batches)}
    what = f"{what}, {jnp.dtype(dtype).name}, {size(params)} parameters, {m} x {samples} samples, n = {n}"
    return ratio(what, timings, "field", "gradients", "<=", target, facts)


def full_batch(dtype, *, shifted: bool = False) -> Measure:
    """The field in full batch, with 2048 samples, in units of a gradient."""
    what, target = ("shifted full-batch field", 2.0) if shifted else ("full-batch field", 3.0)
    return _against_gradients(what, 1, 2048, 100, target, dtype=dtype, shifted=shifted)


def large(widths, samples: int, dtype) -> Measure:
    """The field for many parameters, where the gradient is never made one flat vector."""
    params, batches = dense_params(widths, dtype), dense_batches(1, samples, widths, dtype)
    batch, step = jax.tree.map(lambda x: x[0], batches), jnp.asarray(100)
    evaluate, written, compiled = jax.jit(field), jax.jit(by_hand), jax.jit(jax.grad(dense_loss))
    timings = alternate({
        "field": lambda: evaluate(step, params, batches),
        "written by hand": lambda: written(step, params, batch),
        "gradient": lambda: compiled(params, batch),
    })  # fmt: skip
    gradients = {name: timings[name].median / timings["gradient"].median for name in timings}
    facts = {f"{name} in gradients": gradients[name] for name in ("field", "written by hand")}
    what = f"full-batch field, {jnp.dtype(dtype).name}, {size(params)} parameters, {samples} samples"
    return ratio(what, timings, "field", "written by hand", "<=", 1.3, facts)


def mini_batch_by_map(m: int, samples: int) -> Measure:
    """The field in mini-batches, compared with all gradients one after the other, the cheapest on a CPU."""
    params, batches = dense_params(), dense_batches(m, samples)
    step, evaluate = jnp.asarray(100), jax.jit(field)

    @jax.jit
    def one_by_one(params, batches):
        return jax.lax.map(lambda batch: jax.grad(dense_loss)(params, batch), batches)

    timings = alternate({
        "field": lambda: evaluate(step, params, batches),
        "gradients by lax.map": lambda: one_by_one(params, batches),
    }, repeats=3)  # fmt: skip
    plan = evaluate.lower(step, params, batches).compile().memory_analysis()
    vectors = plan.temp_size_in_bytes / (4 * size(params))
    what = f"mini-batch field, float32, {size(params)} parameters, {m} x {samples} samples"
    facts = {"temporaries in vectors of size p": vectors}
    return ratio(what, timings, "field", "gradients by lax.map", "<=", 6.5, facts)


def mini_batch(dtype, samples: int, n: int, *, shifted: bool = False) -> Measure:
    """The field at step n with m = 8 cyclic mini-batches of `samples` samples, in units of all gradients."""
    what, target = ("shifted mini-batch field", 3.0) if shifted else ("mini-batch field", 5.0)
    return _against_gradients(what, 8, samples, n, target, dtype=dtype, shifted=shifted)


def growth() -> Measure:
    """The cost of the field after 10^4 steps, compared with that after 10 steps."""
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
    "full-batch-field-1e6": partial(large, (256, 640, 640, 640, 10), 512, jnp.float32),
    "full-batch-field-1e6-64": partial(large, (256, 640, 640, 640, 10), 512, jnp.float64),
    "full-batch-field-1e7": partial(large, (1024, 4096, 1400, 10), 128, jnp.float32),
    "mini-batch-field-map": partial(mini_batch_by_map, 8, 2048),
    "mini-batch-field-map-64": partial(mini_batch_by_map, 64, 256),
    "mini-batch-field-10": partial(mini_batch, jnp.float32, 2048, 10),
    "mini-batch-field-10000": partial(mini_batch, jnp.float32, 2048, 10**4),
    "mini-batch-field-64-10": partial(mini_batch, jnp.float64, 2048, 10),
    "mini-batch-field-64-10000": partial(mini_batch, jnp.float64, 2048, 10**4),
    "mini-batch-field-small-10": partial(mini_batch, jnp.float32, 256, 10),
    "mini-batch-field-small-10000": partial(mini_batch, jnp.float32, 256, 10**4),
    "mini-batch-field-shifted": partial(mini_batch, jnp.float32, 2048, 10**4, shifted=True),
    "history": growth,
}
