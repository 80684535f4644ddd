"""The carried velocity in parts: they sum to it, and each is what its cause alone makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import examples
from tests.fields.test_carried import NET, net_loss
from tests.registry import CASES

H = 0.05


def parts_of(rule, loss=net_loss, start=NET, steps=12, order=1, batches=None):
    field = ia.carried_field(rule, loss, order=order, batches=batches)
    state = field.start(start, steps)
    return field, steps * rule.h, state, field.decompose(steps * rule.h, state)


def total(parts):
    return sum(jax.tree.leaves(parts))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batches", [None, examples.batches()], ids=["full", "mini"])
def test_they_sum_to_the_velocity(name, batches):
    loss = examples.full_loss if batches is None else examples.batch_loss
    field, t, state, parts = parts_of(CASES[name](H), loss, examples.START, batches=batches)
    np.testing.assert_allclose(total(parts), field(t, state)[0], rtol=1e-12, atol=1e-14)
    if batches is None:
        np.testing.assert_allclose(parts.minibatch, 0 * examples.START, atol=1e-13)


def test_each_part_is_what_its_cause_alone_makes():
    """Adam, written out: n = t/h - 1/2 and bias correction 1 - d^(n+1), memories half a step on."""
    h, b, r, eps, w, steps = 0.01, 0.8, 0.9, 1e-3, 0.3, 12
    rule = ia.AdamW(h, b, r, eps, weight_decay=w)
    _, _, (theta, ((m,), (v,))), parts = parts_of(
        rule, examples.batch_loss, examples.START, steps, batches=examples.batches()
    )
    every = jax.vmap(jax.grad(examples.batch_loss), (None, 0))(theta, examples.batches())
    g, square = jnp.mean(every, 0), jnp.mean(every**2, 0)
    n = steps - 0.5
    m_later = b**0.5 * m + (1 - b**0.5) * g
    v_later = r**0.5 * v + (1 - r**0.5) * square
    m_hat, v_hat = m_later / (1 - b ** (n + 1)), v_later / (1 - r ** (n + 1))
    update = lambda m, v: -m / (jnp.sqrt(v) + eps)
    instant = update(g, g**2)
    np.testing.assert_allclose(parts.instant, instant, rtol=1e-12)
    np.testing.assert_allclose(parts.minibatch, update(g, square) - instant, rtol=1e-11)
    np.testing.assert_allclose(parts.memory[0], update(m_hat, square) - update(g, square), rtol=1e-11)
    np.testing.assert_allclose(parts.memory[1], update(m_hat, v_hat) - update(m_hat, square), rtol=1e-10)
    np.testing.assert_allclose(parts.decay, -w * theta, rtol=1e-11)


def test_late_in_a_quiet_run_memory_and_step_are_the_papers_correction():
    """h times memory small: the parts beside the instant are the correction of order 1, eq. (4)."""
    errors = []
    for h in (1e-3, 5e-4):
        rule = ia.Adam(h, 0.5, 0.7, 0.1, eps_in_sqrt=True)
        _, _, (theta, _), parts = parts_of(rule, examples.full_loss, examples.START, 60)
        root = jnp.sqrt(jax.grad(examples.full_loss)(theta) ** 2 + 0.1)
        correction = -ia.bias(rule, examples.full_loss, theta) / root
        others = total(parts) - parts.instant
        errors.append(float(jnp.linalg.norm(others - correction) / jnp.linalg.norm(correction)))
    assert errors[1] < 0.6 * errors[0] < 0.05


def test_at_order_0_there_is_no_step_and_transformations_are_refused():
    parts = parts_of(ia.Adam(0.01), order=0)[-1]
    assert not np.any(parts.step)
    field = ia.carried_field(optax.sgd(0.01, momentum=0.9), net_loss)
    with pytest.raises(ValueError, match="features, kernels and a readout"):
        field.decompose(0.1, field.start(NET, 3))


def test_what_is_no_state_is_refused():
    field = ia.carried_field(ia.Adam(0.01), net_loss)
    for call in (field, field.decompose):
        with pytest.raises(ValueError, match="the pair"):
            call(0.1, [NET])


def test_it_maps_and_reads_as_norms():
    lanes = jax.vmap(lambda h: parts_of(ia.Adam(h))[-1].instant)(jnp.asarray([0.01, 0.02]))
    np.testing.assert_allclose(lanes[0], parts_of(ia.Adam(0.01))[-1].instant, rtol=1e-12)
    assert "instant" in repr(parts_of(ia.Adam(0.01))[-1])
