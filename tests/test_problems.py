"""The problems are what they say they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.problems import PROBLEMS, digits, network_loss, quadratic


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_every_problem_has_a_finite_loss_and_gradient_at_its_start(build):
    problem = build()
    batch = () if problem.batches is None else (jax.tree.map(lambda x: x[0], problem.batches),)
    value, gradient = jax.value_and_grad(problem.loss)(problem.params, *batch)
    assert bool(jnp.isfinite(value))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))


def test_the_bilinear_model_starts_where_the_paper_starts():
    problem = PROBLEMS["bilinear"]()
    np.testing.assert_allclose(problem.loss(problem.params), 0.5 * (1.5 - 2 * 2.8 * 3.5) ** 2)
    assert float(problem.loss(jnp.asarray([0.5, 1.5]))) == 0


def test_gradient_descent_on_the_quadratic_is_a_geometric_series():
    problem = quadratic((0.5, 3.0))
    run = ia.iterate(ia.GradientDescent(0.1), problem.loss, problem.params, 50)
    np.testing.assert_allclose(run.params[-1], [0.95**50, 0.7**50], rtol=1e-12)


def test_the_digits_are_the_real_ones_in_equal_batches():
    problem = digits(batches=4)
    inputs, targets = problem.batches
    assert inputs.shape == (4, 449, 64)
    assert targets.shape == (4, 449, 10)
    assert float(inputs.max()) == 1
    np.testing.assert_allclose(jnp.sum(targets, -1), 1)
    # Real images: most of the ten classes' frequencies lie near a tenth, and blank pixels exist.
    assert float(jnp.mean(targets, (0, 1)).min()) > 0.08
    assert int(jnp.sum(jnp.max(inputs, (0, 1)) == 0)) == 3


def test_one_batch_of_digits_is_the_mean_of_the_mini_batches():
    whole, split = digits(batches=1), digits(batches=4)
    full = network_loss(whole.params, jax.tree.map(lambda x: x[0], whole.batches))
    parts = jax.vmap(network_loss, (None, 0))(split.params, split.batches)
    np.testing.assert_allclose(full, jnp.mean(parts), rtol=1e-12)


def test_the_seed_draws_weights_and_order():
    one, two = digits(seed=0), digits(seed=1)
    assert not bool(jnp.allclose(one.params["w1"], two.params["w1"]))
    assert not bool(jnp.allclose(one.batches[0], two.batches[0]))
