"""Another batch size in the equation with carried memory: the variance between mini-batches, scaled."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import examples

ADAM = {
    "rule": ia.Adam(0.01, 0.9, 0.99, 1e-4),
    "transformation": ia.Optax(0.01, optax.adam(1.0, 0.9, 0.99, 1e-4)),
}

# Four mini-batches, and all six pairs of them.
FOUR = jax.tree.map(lambda x: jnp.concatenate([x, 0.3 - x[:1]]), examples.batches())
PAIRS = jax.tree.map(lambda x: x[np.array(list(itertools.combinations(range(4), 2)))], FOUR)


def pair_loss(theta, pair):
    return jnp.mean(jax.vmap(examples.batch_loss, (None, 0))(theta, pair))


@functools.cache
def state(adam):
    """One for all, whatever they would remember by then."""
    return ia.carried_field(ADAM[adam], examples.batch_loss, batches=FOUR).start(examples.START, 5)


def velocity(adam, loss, batches, noise=None, order=1):
    return ia.carried_field(ADAM[adam], loss, batches=batches, noise=noise, order=order)(0.2, state(adam))


def leaves_are_close(x, y, rtol):
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("adam", ADAM)
def test_noise_one_is_the_batches_themselves_and_noise_zero_full_batch(adam):
    as_they_are = velocity(adam, examples.batch_loss, FOUR)
    leaves_are_close(velocity(adam, examples.batch_loss, FOUR, 1.0), as_they_are, 1e-12)
    full_batch = velocity(adam, pair_loss, jax.tree.map(lambda x: x[None], FOUR))
    leaves_are_close(velocity(adam, examples.batch_loss, FOUR, 0.0), full_batch, 1e-12)
    assert not np.allclose(full_batch[0], as_they_are[0], rtol=1e-3)


def test_for_twice_the_batch_size_it_is_the_mean_over_all_pairs_of_batches():
    """Exactly, since Adam remembers squares: noise = (m - r)/(r (m - 1)), m = 4, r = 2."""
    pairs = velocity("rule", pair_loss, PAIRS)
    leaves_are_close(velocity("rule", examples.batch_loss, FOUR, (4 - 2) / (2 * (4 - 1))), pairs, 1e-12)


def test_of_a_transformation_the_memories_scale_exactly_and_the_update_to_first_order():
    """At order 0; the step's correction takes the memories from points that the update has reached."""

    def share_missed(spread):
        numbers = np.array(list(itertools.combinations(range(4), 2)))
        four = jax.tree.map(lambda x: spread * x + (1 - spread) * jnp.mean(x, 0, keepdims=True), FOUR)
        pairs = jax.tree.map(lambda x: x[numbers], four)
        moved, remembered = velocity("transformation", pair_loss, pairs, order=0)
        scaled, memory = velocity("transformation", examples.batch_loss, four, 1 / 3, order=0)
        leaves_are_close(memory, remembered, 1e-12)
        full_batch, _ = velocity("transformation", examples.batch_loss, four, 0.0, order=0)
        return np.linalg.norm(scaled - moved) / np.linalg.norm(full_batch - moved)

    assert share_missed(1.0) < 0.2
    assert share_missed(0.1) < share_missed(1.0) / 5


def test_a_run_is_differentiated_by_the_batch_size_from_full_batch_on():
    def end(noise):
        return ia.carried_flow(
            ADAM["rule"], examples.batch_loss, examples.START, 40, batches=FOUR, noise=noise, save_every=40
        ).params[-1]

    both = jax.jit(lambda noise: jax.jvp(end, (noise,), (1.0,)))
    (here, slope), (there, _) = both(0.0), both(2e-4)
    np.testing.assert_allclose(slope, (there - here) / 2e-4, rtol=0.02)
    assert np.linalg.norm(slope) > 1e-4


def test_what_is_no_variance_is_refused():
    with pytest.raises(ValueError, match="noise must be a finite number >= 0"):
        velocity("rule", examples.batch_loss, FOUR, -1.0)
    with pytest.raises(ValueError, match="give batches"):
        ia.carried_flow(ADAM["rule"], examples.full_loss, examples.START, 40, noise=1.0)
    lane = jax.jit(lambda noise: velocity("rule", examples.batch_loss, FOUR, noise)[0])(-1.0)
    assert np.isnan(lane).all()
