"""Carried memory of optax transformations: against the rules, the optimizer itself, and what is refused."""

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.rules.optax_recursion import recursions
from tests import losses
from tests.test_carried import NET, error, error_of_field, net_loss


def table_schedule(n):
    """Known at integers only, with a jump."""
    return jnp.asarray([1.0, 0.9, 0.8, 0.4, 0.4, 0.3, 0.2, 0.2])[jnp.minimum(n, 7)]


def rms_step(h):
    return ia.RMSProp(h, 0.6, 0.1, eps_in_sqrt=False)


# Of one memory that is no linear feature, one without, a present gradient, weight decay, and a schedule.
TWINS = {
    "adamw": (
        lambda h: ia.AdamW(h, 0.5, 0.6, 0.1, eps_in_sqrt=False, weight_decay=0.3),
        optax.adamw(1.0, 0.5, 0.6, eps=0.1, weight_decay=0.3),
    ),
    "nadam": (lambda h: ia.NAdam(h, 0.5, 0.6, 0.1, eps_in_sqrt=False), optax.nadam(1.0, 0.5, 0.6, eps=0.1)),
    "rmsprop": (rms_step, optax.rmsprop(1.0, decay=0.6, eps=0.1, eps_in_sqrt=False)),
    "nesterov": (lambda h: ia.Nesterov(h, 0.5), optax.sgd(1.0, momentum=0.5, nesterov=True)),
    "adagrad": (
        lambda h: ia.Adagrad(h, initial_accumulator=0.2, eps=0.1),
        optax.adagrad(1.0, initial_accumulator_value=0.2, eps=0.1),
    ),
    "scheduled": (
        lambda h: ia.Scheduled(ia.HeavyBall(h, 0.5), table_schedule),
        optax.sgd(table_schedule, momentum=0.5),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_field_and_the_leaps_are_those_of_the_rule(name):
    rule, tx = TWINS[name]
    rule, twin = rule(0.05), ia.Optax(0.05, tx)
    for order in (0, 1):
        own, other = (ia.carried_field(x, losses.full_quartic, order=order) for x in (rule, twin))
        t = jnp.asarray(6.3 * 0.05)
        expected = eqx.filter_jit(own)(t, own.start(losses.START, 6))[0]
        np.testing.assert_allclose(
            eqx.filter_jit(other)(t, other.start(losses.START, 6))[0], expected, rtol=1e-12
        )
    own, other = (
        ia.carried_flow(x, losses.full_quartic, losses.START, 30, start=3, save_every=10).params
        for x in (rule, twin)
    )
    np.testing.assert_allclose(other, own, rtol=1e-9)


FED = optax.rmsprop(1.0, decay=0.6, eps=0.1, momentum=0.5)
# A variance about a mean, momentum of preconditioned gradients, the gradient of the step before.
SECOND_LEVEL = {
    "adabelief": optax.adabelief(1.0, 0.5, 0.6, eps=0.1, eps_root=0.0),
    "rmsprop with momentum": FED,
    "adan": optax.adan(1.0, 0.5, 0.6, 0.7, eps=0.1),
}


@pytest.mark.parametrize("tx", SECOND_LEVEL.values(), ids=SECOND_LEVEL.keys())
def test_leaps_of_one_step_are_the_optimizers_steps_and_the_field_is_of_order_one_and_two(tx):
    for order in (0, 1):
        coarse, fine = (
            error_of_field(
                ia.Optax(0.5 / steps, tx), losses.full_quartic, losses.START, steps, order, start=25
            )
            for steps in (104, 208)
        )
        assert np.log2(coarse / fine) == pytest.approx(order + 1, abs=0.3)
    rule = ia.Optax(0.05, tx)
    leaps = ia.carried_flow(
        rule, losses.full_quartic, losses.START, 20, start=3, stepsize_controller=diffrax.ConstantStepSize()
    )
    twin = ia.iterate(rule, losses.full_quartic, losses.START, 20)
    # The gradient of the step before the first is known to O(h^2) only.
    exact = all(kind.decay > 0 for kind in recursions(tx, losses.START).kinds)
    np.testing.assert_allclose(leaps.params, twin.params, rtol=1e-10 if exact else 2e-3)


def test_memories_as_long_as_the_run_are_carried_to_order_two():
    def along(steps):
        h = 1 / steps
        tx = optax.chain(optax.scale_by_rms(1 - h / 0.4), optax.trace(1 - h / 0.02), optax.scale(-h / 0.02))
        return error_of_field(ia.Optax(h, tx), net_loss, NET, steps)

    assert np.log2(along(800) / along(1600)) == pytest.approx(2, abs=0.2)


def test_at_usual_settings_leaps_follow_it():
    rule = ia.Optax(2.5e-3, optax.adabelief(1.0))
    iterates = ia.iterate(rule, net_loss, NET, 400, save_every=40).params
    carried = ia.carried_flow(rule, net_loss, NET, 400, save_every=40, start=40)
    assert error(carried.params[1:], iterates) < 5e-3
