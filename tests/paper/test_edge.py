"""Through the edge of stability: verdicts follow the data, and the networks are what they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.edge.experiment import EDGE
from implicit_adam.paper.edge.networks import convolutions, on_digits
from implicit_adam.paper.edge.runs import ADAM, CARRIED, CLOSURE, NEARBY, NETWORKS, Curves, Edge, EdgeConfig

STEPS, STRETCHES = 11, 2
CONFIG = EdgeConfig(networks=("right", "closure"))


def found(off, error):
    """Of one network all is right, of the other one all but the closure's."""

    def curves(factor, error):
        each = np.ones(STRETCHES)
        along = np.ones(STEPS)
        return Curves(along, factor * each, along, error * each, factor * each)

    right = {name: curves(1.0, 0.0) for name in (ADAM, NEARBY, CARRIED, CLOSURE)}
    both = {"right": right, "closure": {**right, CLOSURE: curves(off, error)}}
    return Edge(np.arange(STEPS), both, {name: {CARRIED: 1, CLOSURE: 2} for name in both})


def verdicts(off, error):
    return [claim.verdict for claim in EDGE.claims(CONFIG, found(off, error))]


def test_verdicts_follow_the_data_of_each_network():
    assert verdicts(1.0, 0.001) == [HELD] * 6
    assert verdicts(1.05, 0.02) == [HELD] * 4 + [DID_NOT_HOLD] * 2
    assert verdicts(np.nan, np.nan) == [HELD] * 3 + [UNDECIDED] * 3


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_smooth_in_float64_and_uses_all_its_parameters(name):
    loss, params = on_digits(NETWORKS[name], 7)
    value, g = jax.jit(jax.value_and_grad(loss))(params)
    assert value.dtype == float
    assert np.isfinite(value)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(g))


def test_the_convolution_is_that_of_lax():
    params, apply = convolutions((5,))(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, 8, 8), float)
    kernel = params[0]["weight"].reshape(3, 3, 1, 5)
    numbers = ("NHWC", "HWIO", "NHWC")
    z = jax.lax.conv_general_dilated(images[..., None], kernel, (1, 1), "SAME", dimension_numbers=numbers)
    pooled = jnp.mean(jax.nn.gelu(z, approximate=False), axis=(1, 2))
    np.testing.assert_allclose(apply(params, images), pooled @ params[1]["weight"], rtol=1e-12)
