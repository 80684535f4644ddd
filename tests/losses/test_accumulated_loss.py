"""Micro-batches change the memory that a field takes, not the field."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import digits
from tests import examples


def whole(batches):
    return lambda params: jnp.mean(jax.vmap(examples.batch_loss, (None, 0))(params, batches))


def test_value_gradient_and_hessian_are_those_of_the_mean():
    batches = examples.batches(m=7)
    loss = ia.accumulated_loss(examples.batch_loss, batches)
    for derive in (lambda f: f, jax.grad, jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))):
        np.testing.assert_allclose(
            jax.jit(derive(loss))(examples.START),
            derive(whole(batches))(examples.START),
            rtol=1e-12,
            atol=1e-13,
        )


@pytest.mark.parametrize("call", ["flow", "iterate"])
def test_runs_are_those_of_the_mean(call):
    batches = examples.batches(m=7)
    runs = [
        getattr(ia, call)(ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True), loss, examples.START, 20).params
        for loss in (ia.accumulated_loss(examples.batch_loss, batches), whole(batches))
    ]
    np.testing.assert_allclose(*runs, rtol=1e-11)


def test_it_takes_pytrees_sweeps_and_integer_data():
    batches = {"x": jnp.arange(12).reshape(4, 3), "y": examples.batches(m=4)[1]}

    def loss(params, batch):
        return jnp.sum((params["w"] * batch["x"].astype(params["w"].dtype) - batch["y"]) ** 2)

    total = ia.accumulated_loss(loss, batches)
    params = {"w": examples.START}

    def velocity(h):
        return ia.vector_field(ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True), total)(3, params)["w"]

    hs = jnp.asarray([0.1, 0.2])
    np.testing.assert_allclose(jax.vmap(velocity)(hs), [velocity(h) for h in hs], rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_micro_batches():
    """Left to scan's own reverse mode it would, by what every micro-batch stores."""

    def temporary(m):
        problem = digits(batches=m, hidden=64, samples=32 * m)
        loss = ia.accumulated_loss(problem.loss, problem.batches)

        def velocity(loss, params):
            return ia.vector_field(ia.Adam(0.1, eps_in_sqrt=True), loss)(jnp.asarray(5), params)

        compiled = eqx.filter_jit(velocity).lower(loss, problem.params).compile()
        return compiled.compiled.memory_analysis().temp_size_in_bytes

    assert temporary(32) < 1.05 * temporary(4)


def test_batches_of_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="leading axes"):
        ia.accumulated_loss(examples.batch_loss, (jnp.zeros((3, 2)), jnp.zeros((4, 2))))
