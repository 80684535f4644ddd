"""Explicit penalties: derivatives against dense Hessians, any signature, weights of either sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses import modified_losses, penalties
from implicit_adam.losses.problems import quadratic
from tests import examples

EPS = 0.3
g, H = jax.grad(examples.full_loss)(examples.START), jax.hessian(examples.full_loss)(examples.START)


def one_norm(loss, weight):
    return penalties.one_norm(loss, weight, EPS)


# The penalty, the norm of g and the derivative of that norm in g.
CASES = {
    "squared-two-norm": (penalties.squared_two_norm, np.sum(g**2), 2 * g),
    "two-norm": (penalties.two_norm, np.sum(g**2) ** 0.5, g / np.sum(g**2) ** 0.5),
    "one-norm": (one_norm, np.sum(np.sqrt(g**2 + EPS)), g / np.sqrt(g**2 + EPS)),
}
each = pytest.mark.parametrize("penalised", [case[0] for case in CASES.values()], ids=CASES.keys())


@pytest.mark.parametrize("weight", [0.3, -0.3, 0])
@pytest.mark.parametrize(("penalised", "norm", "direction"), CASES.values(), ids=CASES.keys())
def test_value_and_gradient(penalised, norm, direction, weight):
    value, gradient = jax.value_and_grad(penalised(examples.full_loss, weight))(examples.START)
    np.testing.assert_allclose(value, examples.full_loss(examples.START) + weight * norm, rtol=1e-13)
    np.testing.assert_allclose(gradient, g + weight * H @ direction, rtol=1e-12)


def test_gradient_descent_penalises_the_squared_two_norm_by_itself_with_weight_h_over_4():
    implicit = modified_losses.gradient_descent(ia.GradientDescent(0.1), examples.full_loss)
    explicit = penalties.squared_two_norm(examples.full_loss, 0.1 / 4)
    np.testing.assert_allclose(implicit(examples.START), explicit(examples.START), rtol=1e-14)


@each
def test_it_takes_pytrees_and_batches_as_the_loss_does(penalised):
    A, c = examples.batches()
    one = lambda t: examples.batch_loss(t, (A[1], c[1]))
    flat = jax.grad(penalised(one, 0.3))(examples.START)
    tree = jax.grad(penalised(examples.tree_loss, 0.3))(examples.as_tree(examples.START), (A[1], c[1]))
    np.testing.assert_allclose(examples.from_tree(tree), flat, rtol=1e-13)


@each
def test_it_can_be_trained_in_mini_batches(penalised):
    loss, (A, c) = penalised(examples.batch_loss, 0.3), examples.batches()
    run = ia.iterate(ia.GradientDescent(0.1), loss, examples.START, 1, batches=(A, c), schedule=[2])
    expected = examples.START - 0.1 * jax.grad(loss)(examples.START, (A[2], c[2]))
    np.testing.assert_allclose(run.params[-1], expected, rtol=1e-14)


@pytest.mark.parametrize(("penalised", "norm"), [case[:2] for case in CASES.values()], ids=CASES.keys())
def test_the_weight_may_be_traced(penalised, norm):
    value = lambda weight: penalised(examples.full_loss, weight)(examples.START)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.3), norm, rtol=1e-13)
    weights = jnp.asarray([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(jax.vmap(value)(weights), [value(w) for w in (-1, 0, 1)], rtol=1e-13)


def test_eps_may_be_traced():
    value = lambda eps: penalties.one_norm(examples.full_loss, 0.3, eps)(examples.START)
    expected = 0.3 * np.sum(0.5 / np.sqrt(g**2 + EPS))
    np.testing.assert_allclose(jax.jit(jax.grad(value))(EPS), expected, rtol=1e-13)


@each
def test_the_derivative_is_finite_and_zero_where_the_gradient_is(penalised):
    loss = penalised(quadratic().loss, 0.3)
    minimum, batched = jnp.zeros(3), jnp.zeros((2, 3))
    np.testing.assert_array_equal(jax.grad(loss)(minimum), minimum)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(loss)))(batched), batched)


@each
def test_it_stays_in_float32_though_the_weight_is_not(penalised):
    loss, start = lambda t: jnp.sum(jnp.cos(t)), examples.START.astype(jnp.float32)
    weight = jnp.asarray(0.3, jnp.float64)
    assert penalised(loss, weight)(start).dtype == jnp.float32
    assert jax.grad(penalised(loss, weight))(start).dtype == jnp.float32


@each
@pytest.mark.parametrize(
    ("weight", "words"), [(np.nan, "nan"), (np.inf, "inf"), (jnp.ones(3), r"shape \(3,\).*vmap")]
)
def test_a_weight_that_is_no_finite_scalar_is_refused(penalised, weight, words):
    with pytest.raises(ValueError, match=f"weight must be.*{words}"):
        penalised(examples.full_loss, weight)


@each
def test_a_loss_that_is_no_real_number_is_refused(penalised):
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        penalised(lambda t, batch: t * batch, 0.3)(examples.START, 2.0)


def test_an_eps_that_is_not_positive_in_the_dtype_of_the_gradient_is_refused():
    with pytest.raises(ValueError, match="eps"):
        penalties.one_norm(examples.full_loss, 0.3, 0.0)
    loss = penalties.one_norm(lambda t: jnp.sum(t**2), 0.3, 1e-60)
    with pytest.raises(ValueError, match=r"underflows.*float32"):
        loss(examples.START.astype(jnp.float32))


@pytest.mark.parametrize("size", [1e-3, 1e-9, 1e-150])
def test_the_two_norm_of_a_small_gradient_is_penalised_as_any_other(size):
    """No threshold below which its derivative is taken to be zero, and none that lifts the norm."""
    theta = size * jnp.asarray([0.6, 0.0, -0.8])
    penalised = penalties.two_norm(lambda t: jnp.sum(t**2) / 2, 1.0)
    np.testing.assert_allclose(penalised(theta) - size**2 / 2, size, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(penalised)(theta) - theta, theta / size, rtol=1e-9)
