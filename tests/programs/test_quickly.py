"""Programs that look at losses and optimizers run inside of traces, and where their arguments are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.programs.products import check_products
from implicit_adam.programs.quickly import TracedError, compiled_quickly


def test_it_gives_the_values_of_the_function_inside_of_a_trace():
    def f(x, y):
        return {"sum": x + y["a"], "zeros": jnp.zeros(2)}

    arguments = np.arange(3.0), {"a": np.ones(3)}

    def within(x):
        found = compiled_quickly(f, *arguments)(*arguments)
        np.testing.assert_array_equal(found["sum"], [1.0, 2.0, 3.0])
        np.testing.assert_array_equal(found["zeros"], [0.0, 0.0])
        return x

    for transformed in (within, jax.jit(within), jax.vmap(within), jax.grad(lambda x: jnp.sum(within(x)))):
        transformed(jnp.ones(2))


def test_a_function_that_holds_traced_values_is_named():
    def within(x):
        with pytest.raises(TracedError):
            compiled_quickly(lambda y: x * y, np.ones(2))
        return x

    jax.jit(within)(jnp.ones(2))


def test_a_loss_on_another_device_is_compared_there():
    """A relu has a custom derivative, so that its products are compared."""
    device = jax.devices()[1]
    params, data = (jax.device_put(x, device) for x in (jnp.linspace(-1.0, 1.0, 4), jnp.ones((3, 4))))

    def loss(w):
        return jnp.sum(jax.nn.relu(data @ w + jnp.sum(w**2)))

    velocity = ia.vector_field(ia.Adam(1e-3), loss)(3, params)
    assert velocity.devices() == {device}


def test_a_key_that_is_traced_hides_nothing():
    def loss(w, key):
        return jnp.sum(jax.nn.relu(w * jax.random.uniform(key, w.shape)) ** 2)

    def field(key, w):
        check_products(loss, None, w, key)
        return ia.vector_field(ia.Adam(1e-3), lambda w: loss(w, key))(3, w)

    found = jax.jit(field)(jax.random.key(0), jnp.linspace(0.5, 1.0, 4))
    assert bool(jnp.all(jnp.isfinite(found)))
