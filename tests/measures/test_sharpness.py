"""Top eigenvalues against dense Hessians, and what the thresholds say against what optimizers do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import digits, quadratic
from tests import examples

H = jax.hessian(examples.full_loss)(examples.START)
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
    loss = lambda tree: examples.full_loss(examples.from_tree(tree))
    top = jax.jit(lambda p: ia.sharpness(loss, p))(examples.as_tree(examples.START))
    values, vectors = np.linalg.eigh(H)
    np.testing.assert_allclose(top.value, values[-1], rtol=1e-12)
    np.testing.assert_allclose(abs(examples.from_tree(top.vector) @ vectors[:, -1]), 1, rtol=1e-10)


def test_mini_batches_are_averaged():
    dense = jnp.mean(
        jax.vmap(jax.hessian(examples.batch_loss), (None, 0))(examples.START, examples.batches()), 0
    )
    top = ia.sharpness(examples.batch_loss, examples.START, batches=examples.batches())
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
    g = jax.grad(examples.full_loss)(examples.START)
    R = jnp.sqrt(g**2 + eps) if inside else jnp.abs(g) + eps
    for rule in (
        ia.Adam(0.1, 0.9, 0.99, eps, eps_in_sqrt=inside),
        ia.RMSProp(0.1, 0.9, eps, eps_in_sqrt=inside),
    ):
        top = ia.preconditioned_sharpness(rule, examples.full_loss, examples.START)
        np.testing.assert_allclose(top.value, np.linalg.eigvals(H / R[:, None]).real.max(), rtol=1e-10)


P = 30
HARD = {
    "zero": np.zeros(P),
    "identity": np.ones(P),
    "low rank": np.r_[np.arange(1.0, 6), np.zeros(P - 5)],
    "negative semidefinite": np.r_[-np.arange(1.0, 6), np.zeros(P - 5)],
    "negative definite": -np.linspace(1, 50, P),
    "repeated": np.r_[3, 3, 3, 3, np.linspace(-1, 2, P - 4)],
    "nearly repeated": np.r_[3, 3 - 1e-9, 3 - 2e-9, np.linspace(-1, 2, P - 3)],
    "repeated and few": np.r_[np.full(10, 2.0), np.full(10, -5.0), np.full(10, 1.0)],
    "graded": 10.0 ** -np.arange(P),
    "mostly negative": np.r_[0.5, -np.linspace(1, 1600, P - 1)],
    "tiny": 1e-30 * np.linspace(-1, 2, P),
    "huge": 1e30 * np.linspace(-1, 2, P),
}


def symmetric(spectra, seed=0):
    rng = np.random.default_rng(seed)
    Q = [np.linalg.qr(rng.normal(size=(len(x), len(x))))[0] for x in spectra]
    return np.stack([q @ np.diag(x) @ q.T for q, x in zip(Q, spectra, strict=True)])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("smallest", [False, True])
def test_extreme_eigenvalues_are_those_of_lapack_beyond_invariant_subspaces(dtype, smallest):
    """jitted, mapped over matrices, and with more products than there are parameters."""
    A = jnp.asarray(symmetric(HARD.values()), dtype)

    @jax.jit
    @jax.vmap
    def extreme(A):
        loss = lambda x: x @ jnp.matmul(A, x, precision="highest") / 2
        return ia.sharpness(loss, jnp.ones(P, dtype), k=3, smallest=smallest, iterations=20)

    found = extreme(A)
    exact = np.linalg.eigvalsh(np.asarray(A, np.float64))
    exact, scale = exact[:, :3] if smallest else exact[:, :-4:-1], np.abs(exact).max(axis=1)
    rounding = 100 * float(jnp.finfo(dtype).eps) * scale[:, None]
    assert (np.abs(np.asarray(found.value, np.float64) - exact) <= rounding).all()
    assert (np.asarray(found.residual) <= rounding).all()
    vectors = np.asarray(found.vector, np.float64)
    overlaps = np.einsum("aij,akj->aik", vectors, vectors)
    np.testing.assert_allclose(overlaps, np.broadcast_to(np.eye(3), overlaps.shape), atol=1e-5)


def test_scale_does_not_matter():
    for scale in (1e200, 1e-200, 1.0):
        top = ia.sharpness(lambda x, s=scale: s * jnp.sum(jnp.arange(1.0, 6) * x**2) / 2, jnp.ones(5))
        np.testing.assert_allclose(top.value, 5 * scale, rtol=1e-13)


def test_an_eigenvalue_lies_within_the_residual_however_few_the_iterations():
    rng = np.random.default_rng(1)
    spectra = [rng.normal(size=P) * 10 ** rng.uniform(-3, 3, P) for _ in range(40)]
    A = jnp.asarray(symmetric(spectra))

    @jax.jit
    @jax.vmap
    def two(A):
        return ia.sharpness(lambda x: x @ A @ x / 2, jnp.ones(P), k=2, iterations=4)

    found = two(A)
    distance = np.abs(found.value[:, :, None] - np.asarray(spectra)[:, None]).min(axis=-1)
    assert (distance <= found.residual * (1 + 1e-9)).all()
    # Not one that any number would satisfy: most are far from settled, and still within reach.
    assert (np.asarray(found.residual) <= np.abs(spectra).max(axis=1)[:, None]).all()
    assert np.median(found.residual[:, 0]) > 1e-8


def test_a_warm_start_saves_iterations_and_does_not_hide_another_eigenvalue():
    (A,), (change,) = symmetric([np.linspace(0, 3, 60)], 2), symmetric([np.linspace(-1, 1, 60)], 3)
    start = {"a": jnp.ones((2, 20)), "b": jnp.ones(20)}

    def loss(A):
        return lambda tree: losses_flat(tree) @ A @ losses_flat(tree) / 2

    def losses_flat(tree):
        return jnp.concatenate([tree["a"].ravel(), tree["b"]])

    known = ia.sharpness(loss(A), start, k=2, iterations=60)
    assert known.vector["a"].shape == (2, 2, 20)
    moved = A + 1e-4 * change
    warm = ia.sharpness(loss(moved), start, k=2, iterations=3, start=known.vector)
    cold = ia.sharpness(loss(moved), start, k=2, iterations=3)
    np.testing.assert_allclose(warm.value, np.linalg.eigvalsh(moved)[:-3:-1], rtol=1e-6)
    assert (np.asarray(warm.residual) < 1e-2 * np.asarray(cold.residual)).all()
    # Started from an eigenvector that is not the top one, alone in its invariant subspace.
    second = jax.tree.map(lambda x: x[1], known.vector)
    other = ia.sharpness(loss(A), start, iterations=40, start=second)
    np.testing.assert_allclose(other.value, 3, rtol=1e-9)


def test_its_derivative_is_that_of_the_exact_eigenvalue():
    theta = examples.START
    value = lambda theta: ia.sharpness(examples.full_loss, theta).value
    dense = lambda theta: jnp.linalg.eigvalsh(jax.hessian(examples.full_loss)(theta))[-1]
    np.testing.assert_allclose(jax.grad(value)(theta), jax.grad(dense)(theta), rtol=1e-9)


def test_a_hessian_that_is_not_finite_gives_nan():
    assert bool(jnp.isnan(ia.sharpness(lambda x: jnp.sum(x**1.5), jnp.zeros(3)).value))


def after_steps(rule, steps):
    """Params and state after some steps, and the gradients seen."""
    tx, theta = rule.transformation(), examples.START
    state, seen = tx.init(theta), []
    for _ in range(steps):
        seen.append(jax.grad(examples.full_loss)(theta))
        with jax.numpy_dtype_promotion("standard"):
            update, state = tx.update(seen[-1], state, theta)
        theta = theta + update
    return theta, state, jnp.stack(seen)


@pytest.mark.parametrize("inside", [True, False])
def test_with_a_state_the_preconditioner_is_the_optimizers_own(inside):
    beta, rho, eps, steps = 0.6, 0.8, 0.01, 5
    rule = ia.Adam(0.2, beta, rho, eps, eps_in_sqrt=inside)
    theta, state, g = after_steps(rule, steps)
    weights = (1 - rho) * rho ** np.arange(steps)[::-1] / (1 - rho**steps)
    v = weights @ g**2
    R = (1 - beta**steps) * (jnp.sqrt(v + eps) if inside else jnp.sqrt(v) + eps)
    exact = np.linalg.eigvals(jax.hessian(examples.full_loss)(theta) / R[:, None]).real.max()
    for optimizer in (rule, ia.Scheduled(rule, lambda n: 0.5)):
        top = ia.preconditioned_sharpness(optimizer, examples.full_loss, theta, opt_state=state)
        np.testing.assert_allclose(top.value, exact, rtol=1e-10)
    instant = ia.preconditioned_sharpness(rule, examples.full_loss, theta)
    assert abs(float(instant.value) / exact - 1) > 0.1


def test_without_a_state_it_can_be_off_by_orders_of_magnitude():
    """Near a minimum, where v still remembers gradients of 1 and the gradient of the instant is 1e-4."""
    rule, theta, loss = ia.Adam(1e-3), jnp.asarray([1e-4]), lambda theta: jnp.sum(theta**2) / 2
    tx = rule.transformation()
    state = tx.init(theta)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(100):
            _, state = tx.update(jnp.ones(1), state, theta)
    instant = ia.preconditioned_sharpness(rule, loss, theta).value
    own = ia.preconditioned_sharpness(rule, loss, theta, opt_state=state).value
    np.testing.assert_allclose([instant, own], [1e4, 1.0], rtol=1e-3)


def test_with_a_state_rules_that_never_forget_have_one_too():
    theta, state, g = after_steps(ia.Adagrad(0.2, initial_accumulator=0.2, eps=0.1), 4)
    R = jnp.sqrt(jnp.sum(g**2, axis=0) + 0.3)
    exact = np.linalg.eigvals(jax.hessian(examples.full_loss)(theta) / R[:, None]).real.max()
    top = ia.preconditioned_sharpness(
        ia.Adagrad(0.2, initial_accumulator=0.2, eps=0.1), examples.full_loss, theta, opt_state=state
    )
    np.testing.assert_allclose(top.value, exact, rtol=1e-10)


ADAM = ia.Adam(0.1, eps_in_sqrt=True)
BAD = {
    "schedule": (
        lambda: ia.stability_threshold(ia.Scheduled(ia.HeavyBall(0.1), lambda n: 0.5)), "step number n"
    ),
    "more-than-there-are": (lambda: ia.sharpness(examples.full_loss, examples.START, k=4), "k = 4"),
    "start": (lambda: ia.sharpness(examples.full_loss, examples.START, start=jnp.ones(4)), "start must be"),
    "fresh": (
        lambda: ia.preconditioned_sharpness(
            ADAM, examples.full_loss, examples.START, opt_state=ADAM.transformation().init(examples.START)
        ),
        "not seen a gradient",
    ),
    "foreign": (
        lambda: ia.preconditioned_sharpness(
            ADAM, examples.full_loss, examples.START, opt_state=after_steps(ia.HeavyBall(0.1), 1)[1]
        ),
        "'mu'",
    ),
    "of-other-parameters": (
        lambda: ia.preconditioned_sharpness(
            ADAM, lambda x: jnp.sum(x**2), jnp.ones(2), opt_state=after_steps(ADAM, 1)[1]
        ),
        "3 numbers",
    ),
    "no-limit": (
        lambda: ia.preconditioned_sharpness(ia.Adagrad(0.1), examples.full_loss, examples.START), "no limit"
    ),
    "params": (lambda: ia.sharpness(examples.full_loss, jnp.arange(3)), "int64"),
    "loss": (lambda: ia.sharpness(lambda t: t, examples.START), "shape"),
    "iterations": (lambda: ia.sharpness(examples.full_loss, examples.START, iterations=0), "iterations"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_narrow_parameters_start_from_a_known_vector():
    params = jnp.asarray([1.0, -0.5, 2.0], jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        loss = lambda x: jnp.sum(jnp.asarray([1.0, 2.0, 3.0]) * x.astype(jnp.float32) ** 2)
        found = ia.sharpness(loss, params, start=params)
    np.testing.assert_allclose(found.value, 6.0, rtol=0.02)
