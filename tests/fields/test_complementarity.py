"""Semidefinite complementarity: the closed form, brute force, and the three conditions themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from implicit_adam.fields.edge.complementarity import complementary

SOLVE = jax.jit(complementary)


def problem(k, seed, *, skew=0.0):
    """A slack that is negative in about half of all directions, and a map with <X, B[X]> > 0."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(k, k))
    T = rng.normal(size=(k, k, k * k + 5))
    T = T + T.transpose(1, 0, 2)
    S = rng.normal(size=(k, k, k, k))
    S = S + S.transpose(1, 0, 2, 3)
    S = S + S.transpose(0, 1, 3, 2)
    return A + A.T, np.einsum("ijp,klp->ijkl", T, T) + skew * (S - S.transpose(2, 3, 0, 1))


def test_one_direction_has_the_closed_form():
    A, B = jnp.asarray([-3.0, -1e-9, 0.0, 2.0]), jnp.asarray([2.0, 1e6, 1.0, 5.0])
    X, distance = jax.vmap(complementary)(A[:, None, None], B[:, None, None, None, None])
    np.testing.assert_allclose(X[:, 0, 0], [1.5, 1e-15, 0.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(distance, 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_two_directions_are_those_of_brute_force(seed):
    """For a symmetric B a solution is the least of <X, B[X]> / 2 + <A, X>, X = L L^T."""
    A, B = problem(2, seed)

    def energy(entries):
        L = np.array([[entries[0], 0.0], entries[1:]])
        X = L @ L.T
        return np.einsum("ij,ijkl,kl", X, B, X) / 2 + np.sum(A * X)

    starts = np.random.default_rng(1).normal(size=(6, 3))
    best = min((minimize(energy, x, options={"gtol": 1e-10}) for x in starts), key=lambda found: found.fun)
    L = np.array([[best.x[0], 0.0], best.x[1:]])
    X, _ = SOLVE(jnp.asarray(A), jnp.asarray(B))
    np.testing.assert_allclose(X, L @ L.T, atol=1e-5 * np.abs(X).max())


@pytest.mark.parametrize("k", [2, 3, 4])
def test_all_three_conditions_hold_for_maps_that_are_not_symmetric_too(k):
    ranks = set()
    for seed in range(8):
        A, B = problem(k, seed, skew=3.0)
        X, distance = SOLVE(jnp.asarray(A), jnp.asarray(B))
        Y = A + np.einsum("ijkl,kl->ij", B, X)
        size = np.linalg.norm(A)
        assert distance < 1e-10
        assert np.linalg.eigvalsh(X).min() >= -1e-12
        assert np.linalg.eigvalsh(Y).min() > -1e-10 * size
        assert abs(np.sum(X * Y)) < 1e-10 * size
        ranks.add(int(np.sum(np.linalg.eigvalsh(X) > 1e-8 * np.abs(X).max())) if np.any(X) else 0)
    assert len(ranks) > 1


def test_the_distance_says_that_there_is_no_solution():
    _, distance = SOLVE(-jnp.eye(1), -jnp.ones((1, 1, 1, 1)))
    assert distance > 0.1
