"""Orders 2 and 3 of the modified equation: exact facts, and how they are asked for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.fields.any_order.fixed_point import history_terms
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.objective import raveled_loss
from tests import examples
from tests.registry import CASES

STEPS = 9
SCHEDULE = examples.random_schedule(STEPS)
RANDOM = {"batches": examples.batches(), "schedule": SCHEDULE}


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_bias_cancelled_from_gradient_descent_is_miyagawas_counter_term(order):
    """On a quadratic it moves as gradient flow does: exp(-h lambda) - 1 = -h lambda + (h lambda)^2/2 - .."""
    h, spectrum = 0.1, jnp.asarray([0.5, 1.0, 2.0])
    loss = lambda t: jnp.sum(spectrum * t**2) / 2
    tx = ia.with_bias(ia.GradientDescent(h), loss, -1.0, order=order)
    update = jax.jit(lambda t: tx.update(jax.grad(loss)(t), tx.init(t), t)[0])(examples.START)
    series = sum((-h * spectrum) ** i / math.factorial(i) for i in range(1, order + 2))
    np.testing.assert_allclose(update, series * examples.START, rtol=1e-12)


@pytest.mark.parametrize("name", ["nesterov", "scheduled-adam", "ademamix"])
def test_kernels_and_the_optax_twin_agree_at_order_3_and_extend_the_lower_orders(name):
    objective = raveled_loss(examples.quartic, examples.START, RANDOM["batches"], SCHEDULE)
    rule, twin = CASES[name](0.1), ia.Optax(0.1, CASES[name](1.0).transformation())
    third, by_optax = (
        jax.jit(history_terms(x, objective, 3, flow=True)(jnp.asarray(8)))(examples.START)
        for x in (rule, twin)
    )
    for x, y in zip(third, by_optax, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10)
    for order in (0, 1, 2):
        lower = jax.jit(exact_terms(rule, objective, order, flow=True)(jnp.asarray(8)))(examples.START)
        for x, y in zip(lower, third, strict=False):
            np.testing.assert_allclose(x, y, rtol=1e-10)


def test_the_second_order_of_gradient_descent_is_the_known_series():
    """Its terms are the counter terms of gradient flow (Miyagawa 2022)."""
    gradient = jax.grad(examples.full_quartic)
    along = lambda f, v: jax.jvp(f, (examples.START,), (v,))[1]
    g = gradient(examples.START)
    Hg = along(gradient, g)
    expected = (
        g,
        Hg / 2,
        along(gradient, Hg) / 3 + along(lambda t: jax.jvp(gradient, (t,), (g,))[1], g) / 12,
    )
    h = 0.1
    field = ia.vector_field(ia.GradientDescent(h), examples.full_quartic, order=2)(3, examples.START)
    np.testing.assert_allclose(-field, expected[0] + h * expected[1] + h**2 * expected[2], rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_on_a_quadratic_gradient_descent_has_the_series_of_the_logarithm(order):
    """-log(1 - h lambda) / h = lambda + h lambda^2 / 2 + h^2 lambda^3 / 3 + .."""
    h, spectrum = 0.1, jnp.asarray([0.5, 1.0, 2.0])
    loss = lambda t: jnp.sum(spectrum * t**2) / 2
    series = sum(h**i * spectrum ** (i + 1) / (i + 1) for i in range(order + 1))
    for field in (ia.vector_field(ia.GradientDescent(h), loss, order=order)(4, jnp.ones(3)),
                  ia.limiting_field(ia.GradientDescent(h), loss, order=order)(jnp.ones(3)),
                  ia.optax_vector_field(optax.sgd(1.0), loss, h, order=order)(4, jnp.ones(3))):  # fmt: skip
        np.testing.assert_allclose(-field, series, rtol=1e-13)


def test_one_trace_serves_all_step_sizes_and_step_numbers():
    traces = []

    def loss(theta, batch):
        traces.append(1)
        return examples.batch_loss(theta, batch)

    def study(h, counts):
        return ia.convergence(
            ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True), loss, examples.START,
            horizon=h, step_counts=counts, orders=(2,), batches=examples.batches(),
        )  # fmt: skip

    study(0.1, (4, 8, 16))
    first = len(traces)
    study(0.2, (5, 10, 15))
    assert len(traces) == first + 2  # looks at its shape, and at whether it has changed


def test_order_2_takes_pytrees_float32_and_vmap():
    rule = CASES["adam"]
    flat = ia.vector_field(rule(0.1), examples.batch_loss, order=2, **RANDOM)(5, examples.START)
    tree = ia.vector_field(rule(0.1), examples.tree_loss, order=2, **RANDOM)(
        5, examples.as_tree(examples.START)
    )
    np.testing.assert_allclose(examples.from_tree(tree), flat, rtol=1e-13)
    cast = jax.tree.map(lambda x: x.astype(jnp.float32), (examples.START, RANDOM["batches"]))
    narrow = ia.vector_field(rule(0.1), examples.batch_loss, order=2, batches=cast[1], schedule=SCHEDULE)(
        5, cast[0]
    )
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, flat, rtol=1e-4)
    field = lambda h: ia.vector_field(rule(h), examples.full_loss, order=2)(5, examples.START)
    together = jax.vmap(field)(jnp.asarray([0.1, 0.2]))
    np.testing.assert_allclose(together, [field(0.1), field(0.2)], rtol=1e-12)


REFUSED = {
    "too high": (lambda: ia.vector_field(CASES["adam"](0.1), examples.full_loss, order=4), "0 .* 3, got 4"),
    "flow": (lambda: ia.flow(CASES["adam"](0.1), examples.full_loss, examples.START, 4, order=4), "got 4"),
    "with bias": (lambda: ia.with_bias(CASES["adam"](0.1), examples.full_loss, 1.0, order=-1), "got -1"),
    "shifted": (
        lambda: ia.vector_field(CASES["adam"](0.1), examples.full_loss, order=2, shifted=True), r"O\(h\^2\)"
    ),
    "smooth": (
        lambda: ia.smooth_flow(CASES["adam"](0.1), examples.full_loss, examples.START, 4, order=3),
        "use ia.flow",
    ),
    "smooth in mini-batches": (
        lambda: ia.smooth_flow(
            CASES["adam"](0.1), examples.batch_loss, examples.START, 6,
            order=2, batches=examples.batches(),
        ),
        "use ia.flow",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_orders_that_do_not_exist_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
