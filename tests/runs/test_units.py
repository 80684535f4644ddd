"""No length is special: theta -> s theta, h -> s h, eps -> eps / s^2 makes Adam's runs s times as large."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from tests import examples

STEPS = 12
FULL = {"loss": examples.full_loss}
MINI = {"loss": examples.batch_loss, "batches": examples.batches()}


def end(run, **kwargs):
    return lambda rule, start, **training: run(rule, params=start, steps=STEPS, **kwargs, **training).params[
        -1
    ]


def field(**kwargs):
    """Times h: a velocity has the unit of the parameters per time."""
    return lambda rule, start, **training: rule.h * ia.vector_field(rule, **kwargs, **training)(5, start)


def sup_errors(rule, start, **training):
    study = ia.convergence(
        rule, params=start, horizon=float(rule.h) * 8, step_counts=(8, 16, 32), orders=(1,), **training
    )
    return jnp.asarray([*study.error[1], *study.rounding_floor, *study.travelled])


def cancelled(rule, start, loss):
    tx = ia.with_bias(rule, loss, -1.0, order=2)
    with jax.numpy_dtype_promotion("standard"):  # for optax's own arithmetic
        return tx.update(jax.grad(loss)(start), tx.init(start), start)[0]


RUNS = {
    "iterate": (end(ia.iterate), MINI),
    **{f"flow of order {q}": (end(ia.flow, order=q), MINI) for q in (0, 1, 2)},
    "flow, implicit": (end(ia.flow, solver=diffrax.Kvaerno5()), FULL),
    **{f"smooth, order {q}": (end(ia.smooth_flow, order=q, save_every=STEPS), FULL) for q in (0, 1, 2)},
    "smooth, implicit": (end(ia.smooth_flow, solver=diffrax.Kvaerno5()), FULL),
    "smooth in mini-batches": (end(ia.smooth_flow, save_every=3), MINI),
    "memoryless": (end(ia.memoryless), MINI),
    "flow, shifted": (end(ia.flow, shifted=True), MINI),
    "flow of an optax rule, shifted": (
        lambda rule, start, **training: end(ia.flow, shifted=True)(
            ia.Optax(rule.h, rule.with_step_size(jnp.ones_like(rule.h)).transformation()), start, **training
        ),
        FULL,
    ),
    "field of order 3": (field(order=3), MINI),
    "convergence": (sup_errors, FULL),
    "with_bias": (cancelled, FULL),
}


@pytest.mark.parametrize(("run", "training"), RUNS.values(), ids=RUNS.keys())
def test_what_integrates_has_no_unit_of_its_own(run, training):
    """To rounding, since s is a power of two; 2^30 is about 1e9."""

    def in_units_of(s):
        rule = ia.Adam(0.02 * s, 0.5, 0.6, 0.1 / s**2, eps_in_sqrt=True)
        scaled = {**training, "loss": lambda theta, *batch: training["loss"](theta / s, *batch)}
        return run(rule, examples.START * s, **scaled) / s

    # One program for all units, but for what runs on the host.
    compiled = in_units_of if run is sup_errors else jax.jit(in_units_of)
    plain, small, large = (compiled(jnp.asarray(2.0**power)) for power in (0, -30, 30))
    assert float(jnp.max(jnp.abs(plain))) > 0
    for other in (small, large):
        np.testing.assert_allclose(other, plain, rtol=1e-13)
