"""What depends on what, read from programs."""

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.programs.dependence import dependence, levels, passed_on


def f(a, b, c):
    inner = jax.jit(lambda x, y: (x + 1, y))
    first, second = inner(a, b)
    chosen = jax.lax.cond(c > 0, lambda a, b: (a, b), lambda a, b: (2 * a, b + a), a, b)
    looped = jax.lax.fori_loop(0, 3, lambda i, x: x + b, c)
    return first, second, *chosen, looped, jnp.ones(2), c


def test_dependence_goes_through_calls_branches_and_loops():
    found = dependence(f, 1.0, 2.0, 3.0)
    expected = [[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(found, np.array(expected, bool))
    np.testing.assert_array_equal(passed_on(f, 1.0, 2.0, 3.0)[-1], [False, False, True])


def test_levels_are_the_longest_chains_and_a_ring_has_none():
    chain = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], bool)
    assert levels(chain) == [0, 1, 2]
    assert levels(np.array([[0, 1], [1, 0]], bool)) is None
    assert levels(np.zeros((0, 0), bool)) == []
