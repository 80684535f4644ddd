"""Known results that must come out as special cases (the paper's introduction and section 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import quadratic
from tests import examples

gradient = jax.grad(examples.full_loss)


def hessian_times(v):
    return jax.jvp(gradient, (examples.START,), (v,))[1]


def test_on_a_quadratic_the_flow_of_gradient_descent_has_the_modified_eigenvalue_to_first_order():
    """-log(1 - h lambda)/h = lambda + h lambda^2/2 + O(h^2)."""
    problem, h = quadratic((0.5, 1.0, 2.0)), 1e-3
    field = ia.vector_field(ia.GradientDescent(h), problem.loss)(0, problem.params)
    eigenvalues = jnp.asarray([0.5, 1.0, 2.0])
    np.testing.assert_allclose(-field, eigenvalues + h * eigenvalues**2 / 2, rtol=1e-14)
    exact = -jnp.log1p(-h * eigenvalues) / h
    np.testing.assert_allclose(-field, exact, atol=h**2 * 8 / 3 * 1.01)
    assert float(jnp.max(jnp.abs(-field - exact))) > h**2


def test_heavy_ball_late_in_training_is_equation_1_with_its_sign_mended():
    h, beta = 0.1, 0.7
    g = gradient(examples.START)
    penalty = 2 * hessian_times(g)  # grad ||grad E||^2
    expected = -g / (1 - beta) - h * (1 + beta) * (1 - beta) ** -3 * penalty / 4
    limit = ia.limiting_field(ia.HeavyBall(h, beta), examples.full_loss)(examples.START)
    np.testing.assert_allclose(limit, expected, rtol=1e-13)
    late = ia.vector_field(ia.HeavyBall(h, beta), examples.full_loss)(200, examples.START)
    np.testing.assert_allclose(late, expected, rtol=1e-12)


def test_adam_takes_a_sign_step_first():
    """At n = 0 there is no memory: F = g/sqrt(g^2+eps), corrected by half a step along itself."""
    h, eps = 0.1, 1e-3
    sign = lambda t: gradient(t) / jnp.sqrt(gradient(t) ** 2 + eps)
    F = sign(examples.START)
    _, DF = jax.jvp(sign, (examples.START,), (F,))
    field = ia.vector_field(ia.Adam(h, 0.9, 0.999, eps, eps_in_sqrt=True), examples.full_loss)(
        0, examples.START
    )
    np.testing.assert_allclose(field, -(F + h / 2 * DF), rtol=1e-12)


@pytest.mark.parametrize(("beta", "rho"), [(0.9, 0.99), (0.9, 0.5)])
def test_adams_bias_is_equation_4(beta, rho):
    h, eps = 0.1, 0.3
    g = gradient(examples.START)
    brace = (1 + beta) / (1 - beta) - (1 + rho) / (1 - rho) + (1 + rho) / (1 - rho) * eps / (g**2 + eps)
    norm = lambda t: ia.perturbed_one_norm(gradient(t), eps)
    expected = h / 2 * brace * jax.grad(norm)(examples.START)
    bias = ia.bias(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss, examples.START)
    np.testing.assert_allclose(bias, expected, rtol=1e-13)
    limit = ia.limiting_field(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss)(
        examples.START
    )
    np.testing.assert_allclose(limit, -(g + bias) / jnp.sqrt(g**2 + eps), rtol=1e-13)


def test_with_eps_outside_the_bias_is_the_gradient_of_the_other_norm():
    h, beta, rho, eps = 0.1, 0.9, 0.99, 0.3
    g = gradient(examples.START)
    brace = (1 + beta) / (1 - beta) - (1 + rho) / (1 - rho) * jnp.abs(g) / (jnp.abs(g) + eps)
    norm = lambda t: ia.perturbed_one_norm(gradient(t), eps, eps_in_sqrt=False)
    expected = h / 2 * brace * jax.grad(norm)(examples.START)
    rule = ia.Adam(h, beta, rho, eps, eps_in_sqrt=False)
    np.testing.assert_allclose(ia.bias(rule, examples.full_loss, examples.START), expected, rtol=1e-13)
    limit = ia.limiting_field(rule, examples.full_loss)(examples.START)
    np.testing.assert_allclose(limit, -(g + expected) / (jnp.abs(g) + eps), rtol=1e-13)


@pytest.mark.parametrize("correction", [True, False])
def test_rmsprops_bias_is_that_of_adam_without_momentum(correction):
    adam = ia.bias(ia.Adam(0.1, 0.0, 0.9, 0.3, eps_in_sqrt=True), examples.full_loss, examples.START)
    rule = ia.RMSProp(0.1, 0.9, 0.3, bias_correction=correction)
    np.testing.assert_allclose(ia.bias(rule, examples.full_loss, examples.START), adam, rtol=1e-13)


def test_small_eps_penalises_or_protects_the_one_norm_equations_5_and_6():
    h, eps = 0.1, 1e-12
    g = gradient(examples.START)
    for beta, rho in ((0.99, 0.9), (0.9, 0.99)):
        factor = (1 + beta) / (1 - beta) - (1 + rho) / (1 - rho)
        modified = lambda t, factor=factor: (
            examples.full_loss(t) + h / 2 * factor * jnp.sum(jnp.abs(gradient(t)))
        )
        limit = ia.limiting_field(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss)(
            examples.START
        )
        np.testing.assert_allclose(limit, -jax.grad(modified)(examples.START) / jnp.abs(g), rtol=1e-9)
        norm = jax.grad(lambda t: jnp.sum(jnp.abs(gradient(t))))(examples.START)
        bias = ia.bias(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss, examples.START)
        assert float(jnp.sign(bias @ norm)) == (1 if beta > rho else -1)


def test_the_memory_of_adamw_for_small_eps_adds_a_one_norm_and_a_decayed_product_to_the_loss():
    """[1 + wd tau h] E - h tau [||grad E||_1 + wd grad E . theta], tau = rho/(1-rho) - beta/(1-beta)."""
    h, beta, rho, decay = 0.1, 0.9, 0.95, 0.3
    rule = ia.AdamW(h, beta, rho, 1e-12, weight_decay=decay, eps_in_sqrt=True)
    tau = rho / (1 - rho) - beta / (1 - beta)

    def modified(t):
        penalty = jnp.sum(jnp.abs(gradient(t))) + decay * gradient(t) @ t
        return (1 + decay * tau * h) * examples.full_loss(t) - h * tau * penalty

    g = gradient(examples.START)
    memory = ia.decompose(rule, examples.full_loss, examples.START, 500).memory
    np.testing.assert_allclose(memory, -(jax.grad(modified)(examples.START) - g) / jnp.abs(g), rtol=1e-9)


def test_large_eps_penalises_the_two_norm_whatever_rho_equations_7_and_8():
    h, beta, eps = 0.1, 0.9, 1e10
    modified = lambda t: (
        (examples.full_loss(t) + h / (4 * eps**0.5) * (1 + beta) / (1 - beta) * jnp.sum(gradient(t) ** 2))
        / eps**0.5
    )
    for rho in (0.5, 0.99):
        limit = ia.limiting_field(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss)(
            examples.START
        )
        np.testing.assert_allclose(limit, -jax.grad(modified)(examples.START), rtol=1e-7)
        # The h that the display after (7) lacks.
        bias = ia.bias(ia.Adam(h, beta, rho, eps, eps_in_sqrt=True), examples.full_loss, examples.START)
        expected = h / (4 * eps**0.5) * (1 + beta) / (1 - beta) * 2 * hessian_times(gradient(examples.START))
        np.testing.assert_allclose(bias, expected, rtol=1e-7)


def test_the_bias_of_the_other_rules_is_in_units_of_a_gradient():
    h, beta = 0.1, 0.7
    g = gradient(examples.START)
    gd = ia.bias(ia.GradientDescent(h), examples.full_loss, examples.START)
    np.testing.assert_allclose(gd, h / 2 * hessian_times(g), rtol=1e-13)
    ball = ia.bias(ia.HeavyBall(h, beta), examples.full_loss, examples.START)
    np.testing.assert_allclose(ball, h / 2 * (1 + beta) / (1 - beta) ** 2 * hessian_times(g), rtol=1e-13)
