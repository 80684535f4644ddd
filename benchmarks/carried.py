"""The equation with carried memory: an evaluation of its field, and a leap, in gradients."""

from functools import partial

import jax
import optax

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import WIDTHS, dense_batches, dense_loss, dense_params, size
from benchmarks.timing import alternate

MIDDLE, LARGE = (256, 640, 640, 640, 10), (1024, 4096, 1400, 10)
STEPS = 210


def _setting(widths, samples: int):
    """The parameters, their loss, and its compiled gradient."""
    params, batches = dense_params(widths), dense_batches(1, samples, widths)
    batch = jax.tree.map(lambda x: x[0], batches)

    def loss(params):
        return dense_loss(params, batch)

    return params, loss, jax.jit(jax.grad(loss))


def evaluation(make, named: str, widths, samples: int) -> Measure:
    """One evaluation of the field after ten steps; the aim is 1.3 times its count of two gradients."""
    params, loss, gradient = _setting(widths, samples)
    rule = make(1e-3)
    field = ia.carried_field(rule, loss)
    state, evaluate = field.start(params, 10), jax.jit(lambda t, state: field(t, state))
    t = 10 * getattr(rule, "h", 1.0)
    timings = alternate({
        "field": lambda: evaluate(t, state),
        "gradient": lambda: gradient(params),
    })  # fmt: skip
    what = f"carried field of {named}, float32, {size(params)} parameters, {samples} samples"
    return ratio(what, timings, "field", "gradient", "<=", 2.6)


def leap(widths, samples: int) -> Measure:
    """A run, in gradients for each leap and each first step; the aim is 1.3 times its count of one."""
    params, loss, gradient = _setting(widths, samples)
    rule = ia.Adam(1e-3)

    def run():
        return ia.carried_flow(rule, loss, params, STEPS, save_every=STEPS)

    count = 10 + int(run().solver_steps)

    def gradients():
        for _ in range(count):
            jax.block_until_ready(gradient(params))

    timings = alternate({"leaps": run, "as many gradients": gradients}, repeats=3)
    what = f"carried flow of {STEPS} steps, float32, {size(params)} parameters, {samples} samples"
    return ratio(what, timings, "leaps", "as many gradients", "<=", 1.3, {"leaps and first steps": count})


ADAM, OPTAX = (ia.Adam, "ia.Adam"), (optax.adam, "optax.adam")

MEASURES: Measures = {
    "carried-field": partial(evaluation, *ADAM, WIDTHS, 2048),
    "carried-field-1e6": partial(evaluation, *ADAM, MIDDLE, 512),
    "carried-field-1e7": partial(evaluation, *ADAM, LARGE, 128),
    "carried-field-optax-1e6": partial(evaluation, *OPTAX, MIDDLE, 512),
    "carried-field-optax-1e7": partial(evaluation, *OPTAX, LARGE, 128),
    "leaps": partial(leap, WIDTHS, 2048),
    "leaps-1e6": partial(leap, MIDDLE, 512),
    "leaps-1e7": partial(leap, LARGE, 128),
}
