"""Norms and the bias as measured quantities (the formulas of the bias are in test_special_cases)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from tests import examples


def test_the_perturbed_one_norm_is_its_sum_over_all_leaves():
    v = np.array([3.0, -4.0, 0.0])
    tree = examples.as_tree(jnp.asarray(v))
    np.testing.assert_allclose(ia.perturbed_one_norm(tree, 0.25), np.sqrt(v**2 + 0.25).sum(), rtol=1e-15)
    outside = (np.abs(v) - 0.5 * np.log(1 + np.abs(v) / 0.5)).sum()
    np.testing.assert_allclose(ia.perturbed_one_norm(tree, 0.5, eps_in_sqrt=False), outside, rtol=1e-14)


@pytest.mark.parametrize("inside", [True, False])
def test_for_vanishing_eps_it_is_the_one_norm_and_its_gradient_is_the_update(inside):
    v = jnp.asarray([3.0, -4.0, 0.5])
    np.testing.assert_allclose(ia.perturbed_one_norm(v, 1e-18, eps_in_sqrt=inside), 7.5, rtol=1e-14)
    gradient = jax.grad(lambda v: ia.perturbed_one_norm(v, 0.3, eps_in_sqrt=inside))(v)
    root = jnp.sqrt(v**2 + 0.3) if inside else jnp.abs(v) + 0.3
    np.testing.assert_allclose(gradient, v / root, rtol=1e-14)


def test_the_bias_is_a_pytree_like_the_parameters_and_jits():
    rule = ia.Adam(0.1, 0.9, 0.99, 0.3, eps_in_sqrt=True)
    loss = lambda tree: examples.full_loss(examples.from_tree(tree))
    tree = jax.jit(lambda p: ia.bias(rule, loss, p))(examples.as_tree(examples.START))
    flat = ia.bias(rule, examples.full_loss, examples.START)
    np.testing.assert_allclose(examples.from_tree(tree), flat, rtol=1e-13)


def test_the_zero_order_field_of_adam_is_the_perturbed_sign_flow():
    g = jax.grad(examples.full_loss)(examples.START)
    for inside, root in ((True, jnp.sqrt(g**2 + 0.3)), (False, jnp.abs(g) + 0.3)):
        field = ia.limiting_field(ia.Adam(0.1, eps=0.3, eps_in_sqrt=inside), examples.full_loss, order=0)
        np.testing.assert_allclose(field(examples.START), -g / root, rtol=1e-14)
