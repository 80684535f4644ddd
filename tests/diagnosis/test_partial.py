"""Of an optimizer that no equation here follows a diagnosis says what needs none, and what is missing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import examples

RATES = jnp.asarray([0.5, 1.0, 4.0])
PUSH = 0.3 * jnp.asarray([[1.0, 0.0, 2.0], [-1.0, 0.0, -2.0]])
AMSGRAD = optax.amsgrad(1.0, b1=0.0)


def loss(theta, push):
    return jnp.sum(RATES * theta**2) / 2 + push @ theta


@functools.cache
def diagnosed(h):
    return ia.diagnose(ia.Optax(h, AMSGRAD), loss, examples.START, batches=PUSH, horizon=6, iterations=3)


def test_it_says_what_is_missing_and_why():
    found = diagnosed(1e-3)
    assert isinstance(found, ia.PartialDiagnosis)
    assert found.equation == "unknown"
    assert "does not fade by one and the same factor a step: a maximum (amsgrad" in found.missing
    assert found.missing in found.verdict
    assert "how far the edge of stability is are not known" in found.verdict
    assert repr(found).startswith("Which equation predicts the next steps")
    assert {type(x) for x in found.numbers().values()} == {float}


def test_its_numbers_are_those_of_the_optimizer_and_the_loss():
    """Ten steps of .001 do not go far."""
    found = diagnosed(1e-3)
    tx = optax.chain(AMSGRAD, optax.scale(1e-3))
    params, state = examples.START, tx.init(examples.START)
    for n in range(11):
        g = RATES * params + (PUSH[n % 2] if n < 10 else 0)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(g, state, params)
        params = params + (updates if n < 10 else 0)
    assert found.step == 10
    np.testing.assert_allclose(found.update, updates, rtol=1e-9)
    np.testing.assert_allclose(
        found.alignment, -(updates @ g) / np.linalg.norm(updates) / np.linalg.norm(g), rtol=1e-9
    )
    np.testing.assert_allclose(found.one_norm, jnp.sum(jnp.abs(g)), rtol=1e-9)
    np.testing.assert_allclose(found.sharpness, [4.0], rtol=1e-9)
    np.testing.assert_allclose(found.update_sharpness, updates**2 @ RATES / (updates @ updates), rtol=1e-9)
    of_batches = g[None] + PUSH
    squares = jnp.sum(of_batches**2, 1)
    np.testing.assert_allclose(found.batch_sharpness, jnp.mean(of_batches**2 @ RATES / squares), rtol=1e-9)
    np.testing.assert_allclose(found.noise, jnp.sum(PUSH[0] ** 2) / (g @ g), rtol=1e-9)
    assert f"{float(found.noise):.3g} times the square of the mean" in found.verdict


def test_it_sees_updates_that_alternate():
    assert diagnosed(1e-3).alternation > -0.5
    assert diagnosed(4.0).equation == "past the edge"
    assert "consecutive updates alternate" in diagnosed(4.0).verdict
    assert "alternate" not in diagnosed(1e-3).verdict


def test_what_needs_the_memory_refuses_it():
    with pytest.raises(ValueError, match="does not fade by one and the same factor"):
        ia.advise(ia.Optax(1e-3, AMSGRAD), loss, examples.START, batches=PUSH)
