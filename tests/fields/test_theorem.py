"""Theorem 3.1 and Remark 3.2 against their literal transcription."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import digits
from tests import examples
from tests.oracles import equation_10, remark_3_2


@pytest.mark.parametrize("inside", [True, False], ids=["eps-inside", "eps-outside"])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_mini_batch_field_of_adam_is_equation_10(n, seed, inside):
    h, beta, rho, eps = 0.2, 0.7, 0.8, 0.05
    batches, schedule = examples.batches(seed), examples.random_schedule(10, seed)
    rule, loss = ia.Adam(h, beta, rho, eps, eps_in_sqrt=inside), examples.quartic
    # An array, as which one program serves every n.
    found = ia.vector_field(rule, loss, batches=batches, schedule=schedule)(jnp.asarray(n), examples.START)
    schedule = np.asarray(schedule)
    expected = equation_10(loss, batches, schedule, n, examples.START, h, beta, rho, eps, inside=inside)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("n", [0, 1, 3, 40, 3000])
@pytest.mark.parametrize(("beta", "rho"), [(0.9, 0.999), (0.3, 0.5), (0.0, 0.95)])
def test_the_full_batch_field_of_adam_is_remark_3_2(n, beta, rho):
    h, eps = 0.2, 0.05
    field = ia.vector_field(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss)
    expected = remark_3_2(examples.full_loss, float(n), examples.START, h, beta, rho, eps)
    # The printed lag cancels for small n (1 - rho); ours does not.
    np.testing.assert_allclose(field(n, examples.START), expected, rtol=1e-10)


def test_rmsprop_with_bias_correction_is_adam_without_momentum():
    kwargs = {"batches": examples.batches(), "schedule": examples.random_schedule(8)}
    for inside in (True, False):
        rmsprop = ia.RMSProp(0.2, 0.7, 0.05, eps_in_sqrt=inside, bias_correction=True)
        adam = ia.Adam(0.2, 0.0, 0.7, 0.05, eps_in_sqrt=inside)
        fields = [
            ia.vector_field(rule, examples.batch_loss, **kwargs)(jnp.asarray(7), examples.START)
            for rule in (rmsprop, adam)
        ]
        np.testing.assert_allclose(*fields, rtol=1e-13)


def test_a_traced_step_number_gives_the_field_of_a_static_one():
    """The window that a traced n allows drops only terms below rounding; a static n sums everything."""
    schedule = examples.random_schedule(700)
    rule = ia.Adam(0.1, 0.9, 0.95, 0.05, eps_in_sqrt=True)
    field = ia.vector_field(rule, examples.batch_loss, batches=examples.batches(), schedule=schedule)
    jitted = jax.jit(field)
    for n in (0, 130, 699):
        np.testing.assert_allclose(
            jitted(jnp.asarray(n), examples.START), field(n, examples.START), rtol=1e-13
        )


def test_the_cyclic_default_is_the_cyclic_schedule():
    rule = ia.HeavyBall(0.1, 0.8)
    explicit = ia.vector_field(
        rule, examples.batch_loss, batches=examples.batches(), schedule=jnp.arange(20) % 3
    )
    default = ia.vector_field(rule, examples.batch_loss, batches=examples.batches())
    for n in (0, 2, 19):
        by_default, along = (field(jnp.asarray(n), examples.START) for field in (default, explicit))
        np.testing.assert_allclose(by_default, along, rtol=1e-13)


def test_a_ragged_epoch_weighs_batches_by_their_visits():
    """Epochs of different lengths, and a batch that is never visited, are only a schedule."""
    schedule = jnp.asarray([0, 2, 2, 0, 0, 0, 2])
    kwargs = {"batches": examples.batches(), "schedule": schedule}
    expected = equation_10(
        examples.batch_loss, examples.batches(), np.asarray(schedule), 6, examples.START, 0.1, 0.6, 0.7, 0.02
    )
    field = ia.vector_field(ia.Adam(0.1, 0.6, 0.7, 0.02, eps_in_sqrt=True), examples.batch_loss, **kwargs)
    np.testing.assert_allclose(field(6, examples.START), expected, rtol=1e-10)


def _operations(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


RULES = {
    "gradient-descent": (ia.GradientDescent(0.1), 1),
    "heavy-ball": (ia.HeavyBall(0.1), 1),
    "adam": (ia.Adam(0.1, eps_in_sqrt=True), 2),
}


@pytest.mark.parametrize(("rule", "r"), RULES.values(), ids=RULES.keys())
def test_an_evaluation_costs_m_gradients_and_r_times_m_hessian_vector_products(rule, r):
    """A product is at most two gradients' worth of operations once the gradient is there."""
    problem = digits(batches=4, hidden=64)
    per_batch = jax.vmap(jax.grad(problem.loss), (None, 0))
    gradients = _operations(per_batch, problem.params, problem.batches)
    cost = [
        _operations(
            ia.vector_field(rule, problem.loss, order=order, batches=problem.batches),
            jnp.asarray(5),
            problem.params,
        )
        for order in (0, 1)
    ]
    assert cost[0] < 1.05 * gradients
    assert 1.5 * gradients < cost[1] < (1 + 2 * r) * gradients


def test_no_hessian_matrix_is_formed():
    p = 3000
    batches = examples.batches(m=2, p=4)

    def loss(theta, batch):
        A, c = batch
        return jnp.sum((A @ theta[:4] - c) ** 2) + jnp.sum(jnp.cos(theta))

    field = ia.vector_field(ia.Adam(0.1, 0.6, 0.7, 0.02, eps_in_sqrt=True), loss, batches=batches)
    compiled = jax.jit(field).lower(jnp.asarray(5), jnp.ones(p)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < p * p * 8 / 4
