"""Where only forward mode goes, reverse mode is refused with what to use; where both go, they agree."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from tests import examples

RULE = ia.Adam(0.02, 0.5, 0.6, 0.1, eps_in_sqrt=True)
UNCORRECTED = ia.RMSProp(0.02, 0.6, 0.1, eps_in_sqrt=True)
MINIBATCHES = {"batches": examples.batches()}
CONTROLLER = diffrax.PIDController(rtol=1e-6, atol=1e-6)


def end(rule, loss, run=ia.flow, **kwargs):
    return lambda theta: jnp.sum(run(rule, loss, theta, 3, **kwargs).params[-1])


FORWARD_ONLY = {
    "flow on mini-batches": end(RULE, examples.batch_loss, **MINIBATCHES),
    "flow without bias correction": end(UNCORRECTED, examples.full_loss),
    "flow with a controller": end(RULE, examples.full_loss, stepsize_controller=CONTROLLER),
    "smooth flow": end(RULE, examples.full_loss, run=ia.smooth_flow),
    "observe": lambda theta: ia.observe(RULE, examples.full_loss, theta, 3, "loss").last["loss"],
    "field at a traced step": lambda theta: jnp.sum(
        jax.jit(ia.vector_field(RULE, examples.batch_loss, **MINIBATCHES))(jnp.asarray(3), theta)
    ),
}


@pytest.mark.parametrize("f", FORWARD_ONLY.values(), ids=FORWARD_ONLY.keys())
def test_reverse_mode_through_a_traced_number_of_steps_names_forward_mode(f):
    with pytest.raises(RuntimeError, match=r"jax\.jvp.*jax\.jacfwd"):
        jax.grad(f)(examples.START)
    _, along = jax.jvp(f, (examples.START,), (jnp.ones(3),))
    step = 1e-6
    difference = (f(examples.START + step) - f(examples.START - step)) / (2 * step)
    np.testing.assert_allclose(along, difference, rtol=1e-5)


def test_reverse_mode_goes_where_the_number_of_steps_is_known():
    field = ia.vector_field(RULE, examples.batch_loss, **MINIBATCHES)
    f = lambda theta: jnp.sum(field(3, theta))
    np.testing.assert_allclose(jax.grad(f)(examples.START), jax.jacfwd(f)(examples.START), rtol=1e-10)
