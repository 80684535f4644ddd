"""Shifted gradients in place of Hessian-vector products: cheaper, and of the same order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.losses.problems import digits
from implicit_adam.objective import raveled_loss
from tests import examples

RULES = {
    "adam": lambda h: ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True),
    "nesterov": lambda h: ia.Nesterov(h, 0.5),
    "optax": lambda h: ia.Optax(
        h, ia.AdamW(1.0, 0.5, 0.6, 0.1, weight_decay=0.3, eps_in_sqrt=True).transformation()
    ),
}
TRAININGS = {
    "full batch": {"loss": examples.full_loss},
    "mini-batches": {"loss": examples.batch_loss, "batches": examples.batches()},
}
# In closed form, by the kernels' history, by optax.
every_kind = pytest.mark.parametrize(
    ("rule", "training"),
    [
        ("adam", "full batch"),
        ("adam", "mini-batches"),
        ("nesterov", "mini-batches"),
        ("optax", "mini-batches"),
    ],
)


@every_kind
def test_the_corrected_flow_stays_of_second_order(rule, training):
    study = ia.convergence(
        RULES[rule](1.0),
        params=examples.START,
        horizon=0.1,
        step_counts=(80, 160, 320),
        shifted=True,
        **TRAININGS[training],
    )
    assert study.asymptotic[1]
    assert abs(study.slope[1] - 2) < 0.1
    assert abs(study.slope[0] - 1) < 0.15


@every_kind
def test_the_field_moves_by_the_square_of_h(rule, training):
    """Not at all at order 0, which has no products."""

    def moved(h, order):
        field, shifted = (
            ia.vector_field(RULES[rule](h), order=order, shifted=x, **TRAININGS[training])(9, examples.START)
            for x in (False, True)
        )
        return float(jnp.max(jnp.abs(field - shifted)))

    assert moved(1e-2, 0) == 0
    assert moved(1e-2, 1) > 1e-7
    np.testing.assert_allclose(moved(1e-2, 1) / moved(5e-3, 1), 4, rtol=0.1)


def test_it_saves_a_gradient_for_each_product():
    problem = digits(batches=4, hidden=64)

    def operations(shifted):
        field = ia.vector_field(
            ia.Adam(0.1, eps_in_sqrt=True), problem.loss, batches=problem.batches, shifted=shifted
        )
        compiled = jax.jit(field).lower(jnp.asarray(5), problem.params).compile()
        return compiled.cost_analysis()["flops"]

    assert operations(True) < 0.9 * operations(False)


def test_flow_and_memoryless_take_it():
    for run in (ia.flow, ia.memoryless):
        exact, shifted = (
            run(
                ia.Adam(0.05, 0.5, 0.6, 0.1, eps_in_sqrt=True),
                examples.full_loss,
                examples.START,
                10,
                shifted=x,
            ).params[-1]
            for x in (False, True)
        )
        assert 0 < float(jnp.max(jnp.abs(exact - shifted))) < 0.05**2


NARROW = jax.tree.map(lambda x: x.astype(jnp.float32), (examples.START, examples.batches()))


@partial(jax.jit, static_argnames="shifted")
def correction(theta, batches, h, size, *, shifted):
    size = size.astype(theta.dtype)
    rule = ia.Adam(1.0, 0.5, 0.6, 0.1 / size**2, eps_in_sqrt=True).astype(theta.dtype)
    scaled = lambda theta, batch: examples.batch_loss(theta / size, batch)
    objective = raveled_loss(scaled, theta, batches)
    if shifted:
        objective = objective._replace(shift=h.astype(theta.dtype) * size)
    return exact_terms(rule, objective, 1, flow=True)(9)(theta)[1]


@pytest.mark.parametrize("h", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_in_float32_the_correction_is_right_however_small_h_is(h, size):
    """To the root of the rounding, sqrt(6e-8) = 2e-4, times what the loss bends over the size of theta."""
    h, size = jnp.asarray(h), jnp.asarray(size)
    exact = correction(examples.START * size, examples.batches(), h, size, shifted=False)
    narrow = correction(NARROW[0] * size.astype(jnp.float32), NARROW[1], h, size, shifted=True)
    assert narrow.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(narrow.astype(float) - exact))) < 1e-2 * float(jnp.max(jnp.abs(exact)))


def test_a_direction_of_zeros_and_a_start_of_zeros_have_products_too():
    objective = raveled_loss(examples.full_loss, examples.START)._replace(shift=jnp.asarray(1e-6))
    _, products = objective.linearize(examples.START)
    assert not products(jnp.zeros((1, 3))).any()
    _, products = objective.linearize(jnp.zeros(3))
    dense = jax.hessian(examples.full_loss)(jnp.zeros(3))
    np.testing.assert_allclose(products(jnp.ones((1, 3)))[0], dense @ jnp.ones(3), rtol=1e-6)
