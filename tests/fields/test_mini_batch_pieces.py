"""More mini-batches than are taken at once: pieces of them, with the same result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam import objective
from implicit_adam.fields.mini_batch import any_schedule

ADAM = ia.Adam(0.1, 0.5, 0.6, 0.1)
START = jnp.asarray([0.4, -0.3, 0.8])


def loss(theta, x):
    return jnp.sum(jnp.tanh(x @ theta) ** 2) + jnp.sum(theta**4)


def velocity(m, **kwargs):
    batches = jax.random.normal(jax.random.key(3), (m, 5, 3))
    return ia.vector_field(ADAM, loss, batches=batches, **kwargs)(jnp.asarray(40), START)


@pytest.mark.parametrize("m", [5, 6, 8])
@pytest.mark.parametrize("how", [{"order": 0}, {}, {"shifted": True}, {"schedule": jnp.arange(50) // 7 % 5}])
def test_pieces_of_the_mini_batches_give_what_all_at_once_do(m, how, monkeypatch):
    pieces = velocity(m, **how)
    for module in (objective, any_schedule):
        monkeypatch.setattr(module, "AT_ONCE", m)
    jax.clear_caches()
    np.testing.assert_allclose(pieces, velocity(m, **how), rtol=1e-10)


def test_pieces_are_differentiated_in_both_modes():
    batches = jax.random.normal(jax.random.key(3), (6, 5, 3))

    def along(theta):
        return jnp.sum(ia.vector_field(ADAM, loss, batches=batches)(7, theta) ** 2)

    np.testing.assert_allclose(jax.jacfwd(along)(START), jax.grad(along)(START), rtol=1e-9)
