"""Pytrees as vectors: joining and cutting are inverse to, and transposes of, each other."""

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from implicit_adam.objective import raveled_loss
from implicit_adam.vectors import joined, ravel, unravel_like

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.asarray(7.0), "c": [jnp.arange(8.0, 12.0)]}
ALONE = {"w": jnp.arange(6.0).reshape(2, 3)}


@pytest.mark.parametrize("tree", [TREE, ALONE])
def test_vector_holds_the_leaves_in_their_order(tree):
    vector = ravel(tree)
    assert jnp.array_equal(vector, ravel_pytree(tree)[0])
    back = unravel_like(tree)(vector)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert all(map(jnp.array_equal, jax.tree.leaves(back), jax.tree.leaves(tree)))


@pytest.mark.parametrize(
    ("own", "working"),
    [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)],
)
def test_a_vector_is_in_float32_or_wider(own, working):
    assert ravel({"a": jnp.ones(2, own), "b": jnp.ones(3, own)}).dtype == working


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    "derivative", [jax.grad, jax.jacfwd, jax.hessian, lambda f: jax.grad(lambda x: f(x) ** 2)]
)
def test_a_vector_is_differentiable_in_any_mode(derivative, wrap):
    def of_vector(x):
        return jnp.sum(x[:6] ** 3) * jnp.sum(jnp.sin(x[7:])) + x[6] ** 2

    x = jnp.linspace(0.1, 1.0, 11)
    unravel = unravel_like(TREE)
    through = wrap(derivative(lambda x: of_vector(ravel(unravel(x)))))(x)
    assert jnp.allclose(through, derivative(of_vector)(x), atol=1e-13, rtol=1e-13)
    along_tree = wrap(jax.grad(lambda tree: of_vector(ravel(tree))))(unravel(x))
    assert jnp.allclose(ravel(along_tree), jax.grad(of_vector)(x), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("axes", [(0, 0), (1, 0), (None, 0), (0, None)])
def test_both_can_be_mapped_along_any_axis(axes):
    x, y = jnp.arange(12.0).reshape(3, 4), jnp.arange(100.0, 106.0).reshape(3, 2)
    given = [z[0] if axis is None else jnp.moveaxis(z, 0, axis) for z, axis in zip((x, y), axes, strict=True)]
    rows = jax.vmap(lambda *pieces: joined(pieces), axes)(*given)
    pairs = zip((x, y), axes, strict=True)
    expected = [jnp.broadcast_to(z[0], z.shape) if axis is None else z for z, axis in pairs]
    assert jnp.array_equal(rows, jnp.concatenate(expected, axis=1))


def test_gradient_of_an_objective_is_that_of_its_flat_loss():
    def loss(tree, batch):
        return jnp.sum(jnp.tanh(tree["a"] * batch)) + tree["b"] * jnp.sum(batch)

    batches = jnp.asarray([0.3, -0.7])
    objective, x = raveled_loss(loss, TREE, batches), jnp.linspace(0.1, 1.0, 11)
    g = jax.grad(objective.loss)(x, batches[1])
    assert jnp.allclose(objective.gradient(x, batches[1]), g, atol=1e-15, rtol=1e-15)
    assert not jnp.any(g[7:]), "an unused leaf has the gradient zero"
    whole = objective.full_batch()
    both = [objective.gradient(x, batch) for batch in batches]
    assert jnp.allclose(whole.gradient(x), (both[0] + both[1]) / 2, atol=1e-15, rtol=1e-15)


def test_on_a_cpu_a_gradient_is_written_into_place_and_never_concatenated():
    def loss(tree):
        return jnp.sum(jnp.tanh(tree["a"] @ tree["a"].T)) + jnp.sum(tree["c"][0] ** 3) * tree["b"]

    def squares(x):
        g = raveled_loss(loss, TREE).gradient(x)
        return g, g**2

    program = jax.jit(squares).trace(ravel(TREE))
    written = program.lower(lowering_platforms=("cpu",)).as_text()
    elsewhere = program.lower(lowering_platforms=("cuda",)).as_text()
    assert "concatenate" not in written
    assert "dynamic_update_slice" in written
    assert "concatenate" in elsewhere
