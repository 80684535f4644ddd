"""Carried memory: the field, at any settings, against the optimizer itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.carried.carrier import keeping_signs
from implicit_adam.fields.carried.over_batches import mean_over_batches
from implicit_adam.fields.carried.rule_carrier import signless, which_are_deltas
from implicit_adam.losses.problems import bilinear
from implicit_adam.objective import raveled_loss
from tests import examples
from tests.odd_rules import SoftSigns
from tests.registry import CASES, ONE_ROOT

_rng = np.random.default_rng(0)
INPUTS = jnp.asarray(_rng.normal(size=(12, 2)))
TARGETS = jnp.sin(2 * INPUTS[:, 0]) * INPUTS[:, 1]
NET = jnp.asarray(_rng.normal(size=9))


def net_loss(theta):
    """A tanh network of nine weights, whose gradient changes sign in several components on the way."""
    return jnp.mean((jnp.tanh(INPUTS @ theta[:6].reshape(2, 3)) @ theta[6:] - TARGETS) ** 2)


SAVES = 8


@eqx.filter_jit
def by_field(field, state, steps, start):
    """The points at eighths of the run, by the classical Runge-Kutta method, one step for each one."""
    h = field.rule.h

    def after(y, k, part):
        return jax.tree.map(lambda y, k: y + part * h * k, y, k)

    def advance(n, y):
        def stage(k, part):
            return field((n.astype(h.dtype) + part) * h, after(y, k, part))

        k1 = stage(jax.tree.map(jnp.zeros_like, y), 0)
        k2 = stage(k1, 1 / 2)
        k3 = stage(k2, 1 / 2)
        k4 = stage(k3, 1)
        return after(y, jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4), 1)

    def segment(y, i):
        first, last = jnp.maximum(start, i * steps // SAVES), (i + 1) * steps // SAVES
        y = jax.lax.fori_loop(first, last, advance, y)
        return y, y[0]

    return jax.lax.scan(segment, state, jnp.arange(SAVES))[1]


def error(points, iterates):
    """The largest along the run, over the distance travelled."""
    travelled = jnp.max(jnp.linalg.norm(iterates - iterates[:1], axis=1))
    late = iterates[len(iterates) - len(points) :]
    return float(jnp.max(jnp.linalg.norm(points - late, axis=1)) / travelled)


def error_of_field(rule, loss, params, steps, order=1, start=10):
    iterates = ia.iterate(rule, loss, params, steps, save_every=steps // SAVES).params
    assert start <= steps // SAVES
    field = ia.carried_field(rule, loss, order=order)
    points = by_field(field, field.start(params, start), jnp.asarray(steps), jnp.asarray(start))
    return error(points, iterates)


SETTINGS = {
    "fixed, short": (bilinear(), lambda h: ia.Adam(h, 0.5, 0.7, 1e-8, eps_in_sqrt=False), 1600),
    "fixed, long": (None, lambda h: ia.Adam(h, 0.9, 0.999, 1e-8, eps_in_sqrt=True), 1600),
    "as long as the run": (
        None,
        lambda h: ia.Adam(h, 1 - h / 0.02, 1 - h / 0.4, 1e-8, eps_in_sqrt=False),
        1600,
    ),
}


@pytest.mark.parametrize(("problem", "rule", "steps"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_error_is_of_order_one_and_two_in_the_step_however_long_the_memory(problem, rule, steps):
    loss, params = (net_loss, NET) if problem is None else (problem.loss, problem.params)
    for order in (0, 1):
        coarse = error_of_field(rule(1 / steps), loss, params, steps, order)
        fine = error_of_field(rule(0.5 / steps), loss, params, 2 * steps, order)
        assert np.log2(coarse / fine) == pytest.approx(order + 1, abs=0.15)


def test_at_usual_settings_it_holds_where_the_expanded_flows_are_off_by_a_third_of_the_way_and_more():
    rule, steps = ia.Adam(2.5e-3, 0.9, 0.999, 1e-8, eps_in_sqrt=True), 400
    iterates = ia.iterate(rule, net_loss, NET, steps).params
    plain = ia.flow(rule, net_loss, NET, steps, order=0).params
    with pytest.warns(ia.OutsideRangeWarning, match="carried_flow"):
        corrected = ia.flow(rule, net_loss, NET, steps).params
    # How sign layers thinner than a step are crossed depends on rounding: .49 to .51 of the way.
    assert min(error(plain, iterates), error(corrected, iterates)) > 1 / 3
    carried = ia.carried_flow(rule, net_loss, NET, steps).params
    assert error(carried, iterates) < 1e-3


@pytest.mark.parametrize("name", ONE_ROOT)
def test_every_rule_is_carried_to_order_two(name):
    def along(steps):
        return error_of_field(CASES[name](0.5 / steps), examples.full_quartic, examples.START, steps)

    coarse, fine = along(208), along(416)
    # A sum of all squares is never far from its start in the number of its steps.
    assert np.log2(coarse / fine) > (1.4 if name == "adagrad" else 1.7)


def test_what_changes_with_the_number_of_the_step_is_summed_over_steps():
    # Adagrad's step falls as 1/sqrt(n) at first, however small h is: midpoints are off by F''/24 a step.
    def along(steps):
        return error_of_field(CASES["adagrad"](0.5 / steps), examples.full_quartic, examples.START, steps)

    assert along(1664) < 1e-7


def test_a_schedule_that_turns_every_few_steps_is_summed_over_steps():
    def along(steps):
        rule = ia.Scheduled(
            ia.GradientDescent(0.5 / steps), lambda n: 1 + jnp.cos(jnp.asarray(n, float) / 3) / 2
        )
        return error_of_field(rule, examples.full_quartic, examples.START, steps)

    assert along(416) < 4e-6


@pytest.mark.parametrize("name", CASES)
def test_the_first_steps_are_the_optimizers_own(name):
    rule = CASES[name](0.02)
    own = ia.carried_field(rule, examples.full_quartic).start(examples.START, 7)[0]
    twin = ia.iterate(rule, examples.full_quartic, examples.START, 7).params[-1]
    np.testing.assert_allclose(own, twin, rtol=1e-12)


def test_expanded_in_the_lag_it_is_remark_3_2():
    # A memory that has settled lags by 1/(1-d) steps behind psi on a line.
    def difference(h):
        rule = ia.Adam(h, 0.5, 0.7, 0.1, eps_in_sqrt=True)
        F = -ia.limiting_field(rule, examples.full_quartic, order=0)(examples.START)
        now, before = (jax.grad(examples.full_quartic)(x) for x in (examples.START, examples.START + h * F))
        settled = [
            psi(now) - (psi(now) - psi(before)) / (1 - d)
            for psi, d in ((lambda g: g, 0.5), (jnp.square, 0.7))
        ]
        memories = ((settled[0],), (settled[1],))
        carried = ia.carried_field(rule, examples.full_quartic)(1e4 * h, (examples.START, memories))[0]
        expanded = ia.limiting_field(rule, examples.full_quartic)(examples.START)
        return float(jnp.linalg.norm(carried - expanded)), float(jnp.linalg.norm(expanded + F))

    (coarse, correction), (fine, _) = difference(1e-3), difference(5e-4)
    assert coarse < correction / 20
    assert np.log2(coarse / fine) == pytest.approx(2, abs=0.05)


def test_what_has_no_sign_is_known_of_traced_hyperparameters():
    seen = []
    jax.eval_shape(lambda rho: seen.append(signless(SoftSigns(0.1, rho=rho))), jnp.asarray(0.5))
    assert seen == [(False, True)]


def test_only_the_present_gradient_has_no_state():
    assert which_are_deltas(ia.Adam(0.1, 0.0, 0.9, 1e-3, eps_in_sqrt=True)) == ((False,), (False,))
    assert which_are_deltas(ia.RMSProp(0.1, 0.9, 1e-3, eps_in_sqrt=True)) == ((True,), (False,))
    assert which_are_deltas(ia.NAdam(0.1)) == ((False, True), (False,))
    assert which_are_deltas(ia.AdEMAMix(0.1)) == ((False, False), (False,))
    field = ia.carried_field(
        ia.RMSProp(0.1, 0.9, 1e-3, eps_in_sqrt=True), examples.tree_loss, batches=examples.batches()
    )
    params, ((nothing,), (squares,)) = field.start(examples.as_tree(examples.START), 3)
    assert nothing is None
    assert jax.tree.structure(squares) == jax.tree.structure(params)


def test_a_decay_of_zero_is_rmsprop_and_has_a_derivative():
    def velocity(rule):
        field = ia.carried_field(rule, examples.full_loss)
        params, (_, squares) = field.start(examples.START, 5)
        memories = ((jnp.zeros(3),), squares) if isinstance(rule, ia.Adam) else ((None,), squares)
        return field(0.5, (params, memories))[0]

    adam = lambda beta: ia.Adam(0.1, beta, 0.9, 1e-3, eps_in_sqrt=True)
    rmsprop = ia.RMSProp(0.1, 0.9, 1e-3, eps_in_sqrt=True, bias_correction=True)
    np.testing.assert_allclose(velocity(adam(0.0)), velocity(rmsprop), rtol=1e-12)
    assert bool(jnp.all(jnp.isfinite(jax.jacfwd(lambda beta: velocity(adam(beta)))(0.0))))


def test_mini_batches_are_remembered_by_the_mean_of_their_features():
    rule = ia.Adam(0.02, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    A, c = examples.batches()
    gradients = jnp.stack(
        [jax.grad(examples.batch_loss)(examples.START, (A[b], c[b])) for b in range(examples.M)]
    )
    field = ia.carried_field(rule, examples.batch_loss, batches=(A, c))
    _, ((first,), (second,)) = field.start(examples.START, 1)
    np.testing.assert_allclose(first, 0.5 * jnp.mean(gradients, 0), rtol=1e-12)
    np.testing.assert_allclose(second, 0.4 * jnp.mean(gradients**2, 0), rtol=1e-12)


@pytest.mark.parametrize("room", [1, 3, 6, 100])
def test_mini_batches_that_do_not_fit_at_once_are_taken_one_after_the_other(room, monkeypatch):
    """Three parameters: by one, by one, by two and all at once of the four."""
    monkeypatch.setattr("implicit_adam.fields.carried.over_batches.AT_ONCE", room)
    objective = raveled_loss(examples.batch_loss, examples.START, examples.batches(m=4))
    found = mean_over_batches(lambda g: (g, g**2), examples.START, objective)
    gradients = jax.vmap(jax.grad(examples.batch_loss), (None, 0))(examples.START, examples.batches(m=4))
    for got, expected in zip(found, (gradients, gradients**2), strict=True):
        np.testing.assert_allclose(got, jnp.mean(expected, axis=0), rtol=1e-13)


def test_no_memory_changes_its_sign_by_its_change_alone():
    still, more = jnp.asarray([1.0, 1.0, -1.0, -1.0]), jnp.asarray([-2.0, 0.5, 2.0, -3.0])
    np.testing.assert_array_equal(keeping_signs(still, more), [1.0, 1.5, -1.0, -4.0])
