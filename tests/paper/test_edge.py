"""Through the edge of stability: verdicts follow the data, and the networks are what they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.edge.experiment import EDGE
from implicit_adam.paper.edge.nearby_runs import NEARBY_RUNS, Apart, NearbyConfig
from implicit_adam.paper.edge.networks import convolutions, on_digits
from implicit_adam.paper.edge.runs import (
    ADAM,
    CARRIED,
    CLOSURE,
    NEARBY,
    NETWORKS,
    Curves,
    Edge,
    EdgeConfig,
    all_steps,
)
from implicit_adam.rules import Adam
from implicit_adam.studies.prediction import random_move

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


def test_what_is_asked_is_compared_with_the_worst_of_the_moved_runs():
    config = NearbyConfig(networks=("one",), at=(0, 5), sizes=(1e-6, 1e-3), draws=2)
    for largest, verdict in (
        ([0.002, 0.009], HELD),
        ([0.002, 0.011], DID_NOT_HOLD),
        ([0.0, np.nan], UNDECIDED),
    ):
        off = np.asarray([[[0.0, 0.0], [9.0, 9.0]], [largest, [9.0, 9.0]]])
        apart = {"one": Apart(np.zeros((2, 2, 2)), off)}
        start, later = NEARBY_RUNS.claims(config, apart)
        assert (start.verdict, later.verdict) == (HELD, verdict)
        assert "at step 5" in later.statement
        (table,) = NEARBY_RUNS.tables(config, apart)
        assert [row[1:3] for row in table.rows] == [
            ("at the start", "1e-06"),
            ("at the start", "1e-03"),
            ("at step 5", "1e-06"),
            ("at step 5", "1e-03"),
        ]


def test_a_move_is_as_large_as_said_and_below_the_edge_a_run_stays_as_far_away():
    config = NearbyConfig(
        networks=("deep linear network",),
        steps=20,
        samples=5,
        at=(0, 8),
        sizes=(1e-9, 1e-7),
        draws=2,
        entry=10,
    )
    with jax.numpy_dtype_promotion("standard"):  # optax's own Adam
        (off,) = NEARBY_RUNS.run(config, lambda _: None).values()
    assert off.largest.shape == (2, 2, 2)
    np.testing.assert_allclose(off.at_entry[:, 1] / off.at_entry[:, 0], 100, rtol=0.05)
    assert (off.largest < 1e-2).all()
    assert len(np.unique(off.largest)) == 8


def test_adam_is_moved_before_the_step_given_and_only_there():
    loss, params = on_digits(NETWORKS["deep linear network"], 5)
    with jax.numpy_dtype_promotion("standard"):
        steps = all_steps(Adam(1e-3), loss, 6)
        own, moved = (steps(params, random_move(params, size, 3), 4).points for size in (0.0, 1e-3))
    apart = jax.tree.map(lambda a, b: a - b, moved, own)
    for x, first in zip(jax.tree.leaves(apart), jax.tree.leaves(random_move(params, 1e-3, 3)), strict=True):
        assert not x[:4].any()
        np.testing.assert_allclose(x[4], first, rtol=1e-9, atol=1e-15)
        assert x[5].any()
