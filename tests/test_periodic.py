"""Under the cyclic schedule a few rows stand for the whole past."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.past import Memory
from implicit_adam.fields.periodic import late_rows, resolution
from implicit_adam.fields.visits import discounted_visits
from implicit_adam.objective import ravel
from implicit_adam.problems import digits
from tests import losses

MEMORIES = [(0.9, 0.999), (0.99, 0.9), (0.5, 0.7), (0.0, 0.99), (0.999, 0.9999)]


def corrections(rule, problem, n, schedule):
    """The first-order part of the field, by a few rows and by every step."""
    params = problem.params

    def field(schedule, order):
        return ia.vector_field(rule, problem.loss, batches=problem.batches, schedule=schedule, order=order)

    velocities = [
        ravel(jax.jit(field(s, order))(jnp.asarray(n), params))
        for s, order in ((None, 1), (schedule, 1), (schedule, 0))
    ]
    return velocities[0] - velocities[2], velocities[1] - velocities[2]


@pytest.mark.parametrize(("beta", "rho"), MEMORIES)
def test_the_interpolated_past_is_the_summed_past(beta, rho):
    """To 1e-9 of the correction from the first epochs on, and to rounding before."""
    problem = digits(batches=4, samples=200)
    schedule = jnp.arange(2000) % 4
    rule = ia.Adam(1.0, beta, rho, 1e-3)
    for n, rtol in ((0, 1e-12), (31, 1e-12), (33, 1e-9), (60, 1e-9), (1999, 1e-9)):
        few, every = corrections(rule, problem, n, schedule)
        np.testing.assert_allclose(few, every, rtol=0, atol=rtol * float(jnp.max(jnp.abs(every))))


def test_it_holds_where_the_mini_batches_disagree_completely():
    """Gradients of mixed sign and very different size, where the readout is least smooth."""
    rng = np.random.default_rng(3)
    A = jnp.asarray(rng.normal(size=(5, 3, 3)) * np.array([10, 1, 0.1, 1, 5])[:, None, None])
    batches = (A, jnp.asarray(rng.normal(size=(5, 3))))
    kwargs = {"batches": batches, "order": 1}
    rule = ia.Adam(1.0, 0.9, 0.99, 1e-6)
    for n in (41, 200, 1000):
        few = ia.vector_field(rule, losses.batch_loss, **kwargs)(n, losses.START)
        every = ia.vector_field(rule, losses.batch_loss, schedule=jnp.arange(1001) % 5, **kwargs)(
            n, losses.START
        )
        np.testing.assert_allclose(few, every, rtol=1e-8)


def test_float32_keeps_its_own_accuracy():
    problem = digits(batches=4, samples=200)
    params, batches = jax.tree.map(lambda x: x.astype(jnp.float32), (problem.params, problem.batches))
    narrow = problem._replace(params=params, batches=batches)
    rule = ia.Adam(1.0, 0.9, 0.99, 1e-3)
    for n in (17, 40, 300):
        _, exact = corrections(rule, problem, n, jnp.arange(301) % 4)
        few, _ = corrections(rule, narrow, n, jnp.arange(301) % 4)
        np.testing.assert_allclose(few, exact, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(exact))))


def test_the_number_of_rows_does_not_depend_on_n():
    rule, m = ia.Adam(1.0, 0.9, 0.999, 1e-3), 4
    memory = Memory(rule, [discounted_visits(None, m, kernel.decay) for kernel in rule.kernels(0)])
    for n in (100, 10_000):
        assert len(late_rows(memory, n, m, jnp.float64).w) == m * 15
    assert resolution(jnp.float32).degree < resolution(jnp.float64).degree


def test_it_differentiates_in_both_modes_and_vmaps():
    problem = digits(batches=2, samples=20, hidden=2)

    def velocity(beta, n=50):
        rule = ia.Adam(0.1, beta, 0.95, 1e-3)
        return ravel(ia.vector_field(rule, problem.loss, batches=problem.batches)(n, problem.params))[7]

    difference = (velocity(0.9 + 1e-6) - velocity(0.9 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(velocity)(0.9), difference, rtol=1e-6)
    traced = jax.jit(lambda beta: velocity(beta, jnp.asarray(50)))
    np.testing.assert_allclose(jax.jacfwd(traced)(0.9), difference, rtol=1e-6)
    betas = jnp.asarray([0.0, 0.9, 0.99])
    np.testing.assert_allclose(jax.vmap(traced)(betas), [velocity(beta) for beta in betas], rtol=1e-10)
    assert np.isfinite(jax.jacfwd(traced)(0.0))
