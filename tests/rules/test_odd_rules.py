"""A rule of one's own: what is taken for granted of rules must hold of odd ones, or be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.full_batch.closed_form import has_closed_form
from tests import examples, odd_rules
from tests.oracles import frozen_updates_and_derivatives

H = 0.3
legal = pytest.mark.parametrize("rule", odd_rules.LEGAL)


def expected_fields(rule, batches_seen):
    """At n = 0 .. 3."""
    F, DF = frozen_updates_and_derivatives(
        rule(1.0).transformation(),
        examples.batch_loss,
        examples.batches(),
        jnp.asarray(batches_seen),
        examples.START,
    )
    return -(F + H * DF)


@legal
def test_the_full_batch_field_is_the_derivative_of_the_iteration(rule):
    expected, field = expected_fields(rule, [0, 0, 0, 0]), ia.vector_field(rule(H), examples.full_loss)
    for n in (0, 3):
        found = field(jnp.asarray(n), examples.START)
        np.testing.assert_allclose(found, expected[n], rtol=1e-11, atol=1e-13)


@legal
def test_the_mini_batch_field_is_too_and_stays_so_where_the_cyclic_schedule_is_summed_in_few_rows(rule):
    batches = examples.batches()
    cyclic = ia.vector_field(rule(H), examples.batch_loss, batches=batches)
    expected = expected_fields(rule, [0, 1, 2, 0])[3]
    np.testing.assert_allclose(cyclic(jnp.asarray(3), examples.START), expected, rtol=1e-11)
    # Far from the start: step by step, along the same schedule written down.
    written = jnp.arange(41) % examples.M
    one_by_one = ia.vector_field(rule(H), examples.batch_loss, batches=batches, schedule=written)
    late, same = (field(jnp.asarray(40), examples.START) for field in (cyclic, one_by_one))
    np.testing.assert_allclose(late, same, rtol=1e-7)


@pytest.mark.parametrize("rule", [odd_rules.OneKernel, odd_rules.WarmingUp])
def test_the_second_order_is_that_of_the_optax_twin(rule):
    by_kernels = ia.vector_field(rule(H), examples.full_quartic, order=2)(3, examples.START)
    tx = rule(1.0).transformation()
    by_optax = ia.optax_vector_field(tx, examples.full_quartic, H, order=2)(3, examples.START)
    np.testing.assert_allclose(by_kernels, by_optax, rtol=1e-10)


def test_closed_forms_serve_updates_that_are_the_same_at_every_step_and_no_others():
    steady = {odd_rules.SquareFirst, odd_rules.TwoMemories, odd_rules.OneKernel}
    assert {rule for rule in odd_rules.LEGAL if has_closed_form(rule(H))} == steady
    adam = ia.Adam(H, eps_in_sqrt=True)
    assert has_closed_form(ia.Scheduled(adam, lambda n: 1.0))
    assert not has_closed_form(ia.Scheduled(adam, lambda n: 1 / (1 + n)))


def test_bias_and_threshold_do_not_depend_on_the_order_of_the_features():
    usual, turned = odd_rules.OddRule(H), odd_rules.SquareFirst(H)
    bias = ia.bias(usual, examples.full_loss, examples.START)
    np.testing.assert_allclose(ia.bias(turned, examples.full_loss, examples.START), bias, rtol=1e-13)
    adam = ia.Adam(H, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    np.testing.assert_allclose(ia.bias(adam, examples.full_loss, examples.START), bias, rtol=1e-13)
    np.testing.assert_allclose(ia.stability_threshold(turned), ia.stability_threshold(usual), rtol=1e-13)


@pytest.mark.parametrize("rule", [odd_rules.SquareFirst, odd_rules.TwoMemories, odd_rules.OneKernel])
def test_the_field_late_on_is_minus_gradient_and_bias_over_the_denominator(rule):
    """R = g/F, from the update itself."""
    g = jax.grad(examples.full_loss)(examples.START)
    R = -g / ia.limiting_field(rule(H), examples.full_loss, order=0)(examples.START)
    bias = ia.bias(rule(H), examples.full_loss, examples.START)
    field = ia.limiting_field(rule(H), examples.full_loss)(examples.START)
    np.testing.assert_allclose(-(g + bias) / R, field, rtol=1e-12)


def test_one_memory_split_in_two_features_has_the_threshold_of_the_whole():
    whole, split = odd_rules.OneKernel(H), odd_rules.TwoMemories(H)
    np.testing.assert_allclose(ia.stability_threshold(split), ia.stability_threshold(whole), rtol=1e-12)


@pytest.mark.parametrize(("rule", "words"), odd_rules.ILLEGAL.items())
def test_a_broken_contract_is_refused_when_the_rule_is_made(rule, words):
    with pytest.raises(ValueError, match=words):
        rule(H)


class OnlySigns(odd_rules.OddRule):
    def features(self, g):
        return jnp.tanh(g), g**2


class Annealed(odd_rules.OddRule):
    """A step that becomes smaller and smaller: no late step is like the next."""

    def readout(self, s, theta, n):
        return super().readout(s, theta, n) / (1 + jnp.asarray(n) / 100)


class GrowingScale(odd_rules.OddRule):
    """The same in a kernel."""

    def kernels(self, n):
        first, second = super().kernels(n)
        return (1 + jnp.log1p(jnp.asarray(n).astype(float))) * first, second


@pytest.mark.parametrize("rule", [Annealed, GrowingScale])
def test_a_rule_that_never_settles_has_no_limit(rule):
    for call in (
        lambda: ia.limiting_field(rule(H), examples.full_loss),
        lambda: ia.bias(rule(H), examples.full_loss, examples.START),
        lambda: ia.smooth_flow(
            rule(0.1), examples.batch_loss, examples.START, 6, batches=examples.batches(), save_every=3
        ),
    ):
        with pytest.raises(ValueError, match="no limit"):
            call()
    # What only warms up has one.
    ia.limiting_field(odd_rules.OddRule(H), examples.full_loss)
    ia.limiting_field(ia.NAdam(H, 0.5, 0.6, 0.1, eps_in_sqrt=True), examples.full_loss)


class TwoFilters(odd_rules.TwoMemories):
    """Two memories of the gradient whose shares differ from coordinate to coordinate."""

    def readout(self, s, theta, n):
        fast, R2, slow = s
        return fast + slow / jnp.sqrt(R2 + 0.1)


class BoundDecay(odd_rules.OddRule):
    """A weight decay that depends on the gradient."""

    def readout(self, s, theta, n):
        return s[0] + theta * s[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: ia.bias(OnlySigns(H), examples.full_loss, examples.START),
            "no feature of OnlySigns is linear",
        ),
        (lambda: ia.stability_threshold(OnlySigns(H)), "no feature of OnlySigns is linear"),
        (lambda: ia.stability_threshold(TwoFilters(H)), "TwoFilters is not one fading filter"),
        (lambda: ia.stability_threshold(BoundDecay(H)), "BoundDecay is not one fading filter"),
    ],
)
def test_a_bias_or_threshold_that_does_not_exist_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_schedule_may_hold_a_traced_value():
    """It cannot be tried then, and has no limit."""

    def end(rate):
        rule = ia.Scheduled(ia.GradientDescent(1.0), lambda n: rate * 0.9**n)
        with pytest.raises(ValueError, match="no limit"):
            ia.limiting_field(rule, examples.full_loss)
        return jnp.sum(ia.iterate(rule, examples.full_loss, examples.START, 3).params[-1])

    for derivative in (jax.grad(end), jax.jit(jax.grad(end))):
        step = 1e-6
        expected = (end(0.1 + step) - end(0.1 - step)) / (2 * step)
        np.testing.assert_allclose(derivative(0.1), expected, rtol=1e-6)
