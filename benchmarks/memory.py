"""Peak memory of one field by XLA's own plan: arguments, results and temporaries, in vectors of size p."""

import jax
import jax.numpy as jnp

import implicit_adam as ia
from benchmarks.fields import field
from benchmarks.measure import Measure, Measures
from benchmarks.networks import dense_batches, dense_loss, dense_params, size
from benchmarks.timing import alternate

WIDTHS = (1024, 4096, 1400, 10)


def _vectors(function, params, *arguments) -> float:
    plan = jax.jit(function).lower(params, *arguments).compile().memory_analysis()
    everything = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return everything / (4 * size(params))


def full_batch() -> Measure:
    """The peak memory in full batch: p = 10^7, 32 samples, float32."""
    params, batches = dense_params(WIDTHS), dense_batches(1, 32, WIDTHS)
    step = jnp.asarray(100)
    evaluate = jax.jit(field)
    timings = alternate({"field": lambda: evaluate(step, params, batches)}, repeats=3)
    vectors = _vectors(lambda params, batches: field(step, params, batches), params, batches)
    gradient = _vectors(lambda params, batches: jax.grad(dense_loss)(params, batches), params,
                        jax.tree.map(lambda x: x[0], batches))  # fmt: skip
    what = f"peak memory of the full-batch field, p = {size(params):.3g}, in vectors of size p"
    return Measure(what, vectors, "<=", 12, timings, {"of the gradient alone": gradient})


def micro_batches() -> Measure:
    """The peak memory for 16 micro-batches, compared with that for the data of one."""
    params = dense_params()

    def plan(m: int) -> float:
        def velocity(params, batches):
            loss = ia.accumulated_loss(dense_loss, batches)
            return ia.vector_field(ia.Adam(1e-3, eps_in_sqrt=True), loss)(jnp.asarray(100), params)

        batches = dense_batches(m, 1024)
        return jax.jit(velocity).lower(params, batches).compile().memory_analysis().temp_size_in_bytes

    facts = {"temporaries in megabytes": plan(16) / 1e6}
    what = "temporaries of a field over 16 micro-batches of 1024 / over 1"
    return Measure(what, plan(16) / plan(1), "<=", 1.05, {}, facts)


MEASURES: Measures = {"memory": full_batch, "memory-micro-batches": micro_batches}
