"""Top eigenvalues against dense Hessians, and what the thresholds say against what optimizers do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.problems import digits, quadratic
from tests import losses

H = jax.hessian(losses.full_loss)(losses.START)
SPECTRA = {
    "definite": (0.5, 1.0, 2.0),
    "more negative than positive": (-5.0, 1.0, 3.0),
    "negative": (-3.0, -2.0, -1.0),
    "repeated": (2.0, 2.0, 2.0, 1.0),
}


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_it_is_the_largest_eigenvalue_not_the_largest_in_modulus(spectrum):
    problem = quadratic(spectrum)
    top = ia.sharpness(problem.loss, problem.params)
    np.testing.assert_allclose(top.value, max(spectrum), rtol=1e-12)
    assert float(top.residual) < 1e-12


def test_it_is_that_of_the_dense_hessian_on_pytrees_and_jits():
    loss = lambda tree: losses.full_loss(losses.from_tree(tree))
    top = jax.jit(lambda p: ia.sharpness(loss, p))(losses.as_tree(losses.START))
    values, vectors = np.linalg.eigh(H)
    np.testing.assert_allclose(top.value, values[-1], rtol=1e-12)
    np.testing.assert_allclose(abs(losses.from_tree(top.vector) @ vectors[:, -1]), 1, rtol=1e-10)


def test_mini_batches_are_averaged():
    dense = jnp.mean(jax.vmap(jax.hessian(losses.batch_loss), (None, 0))(losses.START, losses.batches()), 0)
    top = ia.sharpness(losses.batch_loss, losses.START, batches=losses.batches())
    np.testing.assert_allclose(top.value, np.linalg.eigvalsh(dense)[-1], rtol=1e-12)


def test_the_residual_says_when_the_iterations_were_too_few():
    problem = digits(batches=1, samples=200)
    few, many = (
        ia.sharpness(problem.loss, problem.params, batches=problem.batches, iterations=k) for k in (3, 60)
    )
    assert float(few.residual) > 1e-2 > 1e-8 > float(many.residual)
    # An eigenvalue lies within the residual, and Ritz values grow towards the largest from below.
    assert float(few.value) < float(many.value)
    other_start = ia.sharpness(problem.loss, problem.params, batches=problem.batches, iterations=3, seed=1)
    assert float(other_start.value) != float(few.value)


@pytest.mark.parametrize("inside", [True, False])
def test_preconditioned_it_is_that_of_the_dense_matrix(inside):
    eps = 0.3
    g = jax.grad(losses.full_loss)(losses.START)
    R = jnp.sqrt(g**2 + eps) if inside else jnp.abs(g) + eps
    for rule in (
        ia.Adam(0.1, 0.9, 0.99, eps, eps_in_sqrt=inside),
        ia.RMSProp(0.1, 0.9, eps, eps_in_sqrt=inside),
    ):
        top = ia.preconditioned_sharpness(rule, losses.full_loss, losses.START)
        np.testing.assert_allclose(top.value, np.linalg.eigvals(H / R[:, None]).real.max(), rtol=1e-10)


@pytest.mark.parametrize(
    "build",
    [
        ia.GradientDescent,
        lambda h: ia.HeavyBall(h, 0.6),
        lambda h: ia.Adam(h, 0.6, 0.9, 1e30, eps_in_sqrt=True),
    ],
    ids=["gradient-descent", "heavy-ball", "adam with a frozen preconditioner"],
)
def test_a_quadratic_run_grows_just_above_the_threshold_and_shrinks_just_below(build):
    problem = quadratic((0.5, 2.0))
    sharp = ia.preconditioned_sharpness(build(1.0), problem.loss, problem.params).value
    critical = float(ia.stability_threshold(build(1.0)) / sharp)  # the threshold scales with 1/h
    for factor, grows in ((0.98, False), (1.02, True)):
        run = ia.iterate(build(critical * factor), problem.loss, problem.params, 2000)
        assert (float(jnp.abs(run.params[-1, 1])) > float(jnp.abs(run.params[20, 1]))) == grows


def test_the_threshold_of_adam_is_that_of_cohen_et_al():
    np.testing.assert_allclose(ia.stability_threshold(ia.Adam(0.1, 0.9)), 38 / 0.1, rtol=1e-13)
    np.testing.assert_allclose(ia.stability_threshold(ia.RMSProp(0.1, 0.9)), 2 / 0.1, rtol=1e-13)


BAD = {
    "nesterov": (lambda: ia.stability_threshold(ia.Nesterov(0.1)), "Nesterov"),
    "no-limit": (
        lambda: ia.preconditioned_sharpness(ia.Adagrad(0.1), losses.full_loss, losses.START), "no limit"
    ),
    "params": (lambda: ia.sharpness(losses.full_loss, jnp.arange(3)), "int64"),
    "loss": (lambda: ia.sharpness(lambda t: t, losses.START), "shape"),
    "iterations": (lambda: ia.sharpness(losses.full_loss, losses.START, iterations=0), "iterations"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
