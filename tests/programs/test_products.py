"""Corrections come from derivatives of the gradient that the optimizer sees, or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.lax import stop_gradient

import implicit_adam as ia
from implicit_adam.inputs import checked_program

X = jax.random.normal(jax.random.key(1), (12, 3))
LABELS = jnp.arange(12) % 3
PARAMS = {"W": jax.random.normal(jax.random.key(2), (3, 3)), "b": jnp.full(3, 0.1)}


def net(p, activation=jnp.tanh):
    return activation(X @ p["W"] + p["b"][None])


def temporal_differences(p):
    return jnp.mean((net(p) - 0.9 * stop_gradient(net(p))[::-1] - 1) ** 2)


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda primals, tangents: (straight_through(*primals), tangents[0]))


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.01, 0.01),))


def scanned(p, stop):
    def add(total, x):
        value = jnp.tanh(x @ p["W"] + p["b"])
        return total + jnp.sum((value - 0.9 * stop(value)[::-1] - 1) ** 2), None

    return jax.lax.scan(add, jnp.zeros(()), X)[0]


VISIBLE = {
    "plain": lambda p: jnp.mean(net(p) ** 2),
    "relu": lambda p: jnp.mean((net(p, jax.nn.relu) - 1) ** 2),
    "gelu, cross-entropy": lambda p: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(net(p, jax.nn.gelu), LABELS)
    ),
    "softplus, silu": lambda p: jnp.mean(jax.nn.softplus(net(p, jax.nn.silu))),
    "a norm": lambda p: jnp.linalg.norm(net(p)),
    "a clipped backward pass": lambda p: jnp.mean((clipped(net(p)) - 1) ** 2),
    "a stop on data": lambda p: jnp.mean(stop_gradient(X[:, :1]) * net(p) ** 2),
    "a stop of no weight": lambda p: jnp.mean(net(p) ** 2) + 0 * stop_gradient(p["b"][0]),
    "a scan": lambda p: scanned(p, lambda x: x),
}
HIDDEN = {
    "temporal differences": temporal_differences,
    "inside jit": jax.jit(temporal_differences),
    "inside checkpoint": jax.checkpoint(temporal_differences),
    "inside scan": lambda p: scanned(p, stop_gradient),
    "inside cond": lambda p: jax.lax.cond(p["b"][0] > 0, temporal_differences, lambda p: p["b"][0], p),
    "straight through, by a custom derivative": lambda p: jnp.mean(
        (X @ straight_through(3 * p["W"]) - 1) ** 2
    ),
    "straight through, by a stop": lambda p: jnp.mean(
        (X @ (p["W"] + stop_gradient(jnp.round(p["W"]) - p["W"])) - 1) ** 2
    ),
    "detached statistics": lambda p: jnp.mean((net(p) - stop_gradient(net(p).mean(0))[None]) ** 2),
}


def mismatch(loss):
    """Of jvp(grad(loss)) and a differenced gradient, relative."""
    theta, unravel = ravel_pytree(PARAMS)
    v, step = jax.random.normal(jax.random.key(5), theta.shape), 1e-7
    gradient = jax.jit(lambda theta: ravel_pytree(jax.grad(loss)(unravel(theta)))[0])
    product = jax.jvp(gradient, (theta,), (v,))[1]
    difference = (gradient(theta + step * v) - gradient(theta - step * v)) / (2 * step)
    return float(jnp.linalg.norm(product - difference) / jnp.linalg.norm(product))


@pytest.mark.parametrize("loss", VISIBLE.values(), ids=VISIBLE.keys())
def test_losses_whose_products_are_derivatives_of_the_gradient_pass(loss):
    assert mismatch(loss) < 1e-6
    checked_program(loss, PARAMS, None, products=True)


@pytest.mark.parametrize("loss", HIDDEN.values(), ids=HIDDEN.keys())
def test_losses_that_hide_a_dependence_are_refused(loss):
    assert mismatch(loss) > 0.1
    with pytest.raises(ValueError, match="shifted=True"):
        checked_program(loss, PARAMS, None, products=True)


adam = ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True)

REFUSING = {
    "flow": lambda loss: ia.flow(adam, loss, PARAMS, 3),
    "flow, higher orders": lambda loss: ia.flow(adam, loss, PARAMS, 3, order=2),
    "memoryless": lambda loss: ia.memoryless(adam, loss, PARAMS, 3),
    "vector_field": lambda loss: ia.vector_field(adam, loss)(3, PARAMS),
    "vector_field, jitted": lambda loss: jax.jit(ia.vector_field(adam, loss))(3, PARAMS),
    "limiting_field": lambda loss: ia.limiting_field(adam, loss)(PARAMS),
    "bias": lambda loss: ia.bias(adam, loss, PARAMS),
    "decompose": lambda loss: ia.decompose(adam, loss, PARAMS, 3),
    "regimes": lambda loss: ia.regimes(adam, loss, PARAMS),
    "sharpness": lambda loss: ia.sharpness(loss, PARAMS),
    "preconditioned_sharpness": lambda loss: ia.preconditioned_sharpness(adam, loss, PARAMS),
    "observe": lambda loss: ia.observe(adam, loss, PARAMS, 3, ["distance"]),
    "with_bias": lambda loss: ia.with_bias(adam, loss, -1.0).update(
        PARAMS, ia.with_bias(adam, loss, -1.0).init(PARAMS), PARAMS
    ),
    "modified_losses": lambda loss: ia.modified_losses.gradient_descent(ia.GradientDescent(0.1), loss)(
        PARAMS
    ),
    "convergence": lambda loss: ia.convergence(adam, loss, PARAMS, horizon=0.1, step_counts=(2, 4, 8)),
    "central_flow": lambda loss: ia.central_flow(adam, loss, PARAMS, 20),
    "diagnose": lambda loss: ia.diagnose(adam, loss, PARAMS),
    "diagnose, without carried memory": lambda loss: ia.diagnose(optax.amsgrad(0.1), loss, PARAMS),
    "advise": lambda loss: ia.advise(adam, loss, PARAMS, steps=10),
    "Probe": lambda loss: ia.Probe(optax.sgd(0.1), loss, every=1).step(PARAMS, optax.sgd(0.1).init(PARAMS)),
}


@pytest.mark.parametrize("call", REFUSING.values(), ids=REFUSING.keys())
def test_everything_that_takes_products_refuses_them(call):
    with pytest.raises(ValueError, match="hides a dependence"):
        call(temporal_differences)


def test_what_takes_no_products_runs():
    ia.iterate(adam, temporal_differences, PARAMS, 3)
    ia.flow(adam, temporal_differences, PARAMS, 3, order=0)
    ia.observe(adam, temporal_differences, PARAMS, 3, ["loss"])
    assert ia.carried_flow(adam, temporal_differences, PARAMS, 20).finite


def test_shifted_gradients_are_right_where_products_are_not():
    """Temporal differences have a modified equation like any other update."""
    slopes = ia.convergence(
        adam, temporal_differences, PARAMS, horizon=0.4, step_counts=(40, 80, 160, 320), shifted=True
    ).slope
    assert slopes[1] == pytest.approx(2, abs=0.1)
    assert slopes[0] == pytest.approx(1, abs=0.1)


def test_mini_batch_losses_are_compared_too():
    def loss(p, batch):
        return temporal_differences(p) + jnp.sum(batch) * p["b"][0]

    with pytest.raises(ValueError, match="hides a dependence"):
        ia.vector_field(adam, loss, batches=jnp.ones((2, 3)))(1, PARAMS)
    smooth = ia.vector_field(adam, lambda p, x: jnp.mean(net(p) ** 2) * jnp.sum(x), batches=jnp.ones((2, 3)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(smooth(1, PARAMS)))


def test_a_loss_is_checked_for_the_parameters_that_it_has_now():
    """The same program, of which data in one call are parameters in the next."""
    w, t = jnp.ones(3), jnp.full(3, 2.0)

    def loss(w, t):
        return jnp.sum((w - stop_gradient(t) ** 2) ** 2)

    checked_program(loss, w, t[None], products=True)
    with pytest.raises(ValueError, match="shifted=True"):
        checked_program(lambda both: loss(*both), (w, t), None, products=True)


@pytest.mark.parametrize("array", [jnp.asarray, np.asarray])
def test_a_loss_is_checked_for_the_arrays_that_it_holds_now(array):
    """The same program, whose arrays are arguments of it: with weight zero nothing is hidden."""

    def loss(weight, w):
        return jnp.sum(w**4) + jnp.sum(weight * w * stop_gradient(w))

    def checked(weight):
        return checked_program(jax.tree_util.Partial(loss, array(weight)), jnp.ones(3), None, products=True)

    checked(0.0)
    with pytest.raises(ValueError, match="shifted=True"):
        checked(1.0)
