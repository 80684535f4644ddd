"""A sampled run in mini-batches: variances that are known, what epochs leave of them, its first steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.carried.rule_carrier import carried_rule
from implicit_adam.losses.problems import bilinear
from implicit_adam.objective import raveled_loss
from implicit_adam.runs.carried_options import checked_start
from implicit_adam.runs.mini_batch_noise import Noise, _batch_of_step, _increments, remembering, sampled_run

KEYS = jax.random.split(jax.random.key(0), 600)
M = 3
# Mini-batch gradients theta - a_b, of mean theta.
SHIFTS = jnp.array([-2.0, -1.0, 3.0])
VARIANCE = float(jnp.var(SHIFTS))


def parabola(theta, a):
    return jnp.sum((theta - a) ** 2) / 2


def ends(rule, loss, steps, **options):
    """The last points of many sampled runs."""
    run = lambda key: ia.carried_flow(
        rule, loss, jnp.zeros(1), steps, batches=SHIFTS, key=key, save_every=steps, **options
    )
    return np.asarray(jax.jit(jax.vmap(lambda key: run(key).params[-1, 0]))(KEYS))


@pytest.mark.parametrize("noise", [None, 0.25])
def test_gradient_descent_drawing_with_replacement_has_its_stationary_variance(noise):
    # theta+ = (1-h) theta + h a_b: h / (2 - h) of the variance of a.
    h = 0.2
    found = ends(ia.GradientDescent(h), parabola, 60, replacement=True, noise=noise)
    expected = h / (2 - h) * VARIANCE * (noise or 1)
    # The standard error of a variance of 600 is 6%.
    assert abs(found.var() / expected - 1) < 0.2
    assert abs(found.mean()) < 4 * (expected / len(KEYS)) ** 0.5


def tilted(theta, a):
    return jnp.sum(theta) * a


@pytest.mark.parametrize(("steps", "into_the_epoch"), [(10 * M, 0), (10 * M + 1, 1)])
def test_an_epoch_that_goes_through_all_data_leaves_no_variance(steps, into_the_epoch):
    h = 0.1
    found = ends(ia.GradientDescent(h), tilted, steps)
    j = into_the_epoch
    expected = h**2 * VARIANCE * j * (M - j) / (M - 1)
    if expected:
        assert abs(found.var() / expected - 1) < 0.2
    else:
        assert np.abs(found).max() < 1e-12


def test_another_batch_size_has_epochs_of_its_own_length():
    # Batches of r = M/2: an epoch of two steps.
    noise = (M - M / 2) / (M / 2 * (M - 1))
    ended, amid = (ends(ia.GradientDescent(0.1), tilted, steps, noise=noise, start=0) for steps in (20, 21))
    assert np.abs(ended).max() < 1e-12
    assert abs(amid.var() / (0.01 * noise * VARIANCE) - 1) < 0.2


def test_an_epoch_longer_than_the_run_has_its_whole_length():
    # Batches a fifth as large: an epoch of 15 steps, of which ten are taken.
    noise, steps = 7.0, 10
    P = 1 + noise * (M - 1)
    objective = raveled_loss(tilted, jnp.zeros(1), SHIFTS)._replace(noise=jnp.asarray(noise))

    def gained(key):
        increment, _ = _increments(objective, steps, key, jnp.float64, replacement=False)
        return increment(jnp.zeros(()), jnp.asarray(float(steps)))

    found = jax.jit(jax.vmap(gained))(KEYS)
    assert abs(jnp.var(found) / (steps * (P - steps) / (P - 1)) - 1) < 0.1


def test_its_path_goes_by_steps_and_does_not_move_with_the_step_size():
    rule, objective = ia.GradientDescent(0.1), raveled_loss(parabola, jnp.zeros(1), SHIFTS)
    noise = sampled_run(carried_rule(rule, objective), objective, 20, KEYS[0], replacement=True)
    theta, one = jnp.zeros(1), jnp.ones(())
    at = lambda tau: noise.of_leap(theta, (), (theta,), tau, one)[0]
    (value,), (slope,) = jax.jvp(at, (5 * one,), (one,))
    assert value != 0
    assert slope == 0


def test_batches_of_any_size_have_weights_that_sum_to_one_and_go_through_all_data():
    # Ten steps of three out of ten mini-batches: three epochs, none of which ends with a step.
    m, r = 10, 3
    objective = raveled_loss(tilted, jnp.zeros(1), jnp.zeros(m))._replace(
        noise=jnp.asarray((m - r) / (r * (m - 1)))
    )
    weights = jax.vmap(lambda n: _batch_of_step(objective, n, KEYS[0], jnp.float64, replacement=False))(
        jnp.arange(m)
    )
    np.testing.assert_allclose(jnp.sum(weights, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(r * jnp.sum(weights, axis=0), r, rtol=1e-12)


@pytest.mark.parametrize("replacement", [False, True])
def test_without_noise_a_sampled_run_is_that_of_the_full_batch(replacement):
    run = lambda **options: ia.carried_flow(
        ia.Adam(1e-2, 0.5, 0.7), parabola, jnp.zeros(1), 40, batches=SHIFTS, noise=0.0, start=10, **options
    )
    drawn = run(key=KEYS[0], replacement=replacement)
    np.testing.assert_allclose(drawn.params, run().params, rtol=1e-9, atol=1e-12)


def test_the_first_steps_are_those_of_the_optimizer_in_a_random_order():
    rule, key = ia.Adam(1e-2, 0.5, 0.7), jax.random.key(3)
    problem = bilinear()
    shifts = jnp.linspace(-1.0, 1.0, 4)
    loss = lambda params, a: problem.loss(params) + a * jnp.sum(params**2)
    order = jnp.concatenate([jax.random.permutation(jax.random.fold_in(key, e), 4) for e in range(3)])
    truth = ia.iterate(rule, loss, problem.params, 9, batches=shifts, schedule=order[:9]).params
    found = ia.carried_flow(rule, loss, problem.params, 10, batches=shifts, key=key, start=9, save_every=1)
    np.testing.assert_allclose(found.params[:10], truth, rtol=1e-12)
    assert found.finite


def test_adam_in_mini_batches_spreads_as_it_does():
    rule, problem = ia.Adam(1e-2, 0.9, 0.99), bilinear()
    loss = lambda params, a: problem.loss(params) + a @ params
    pushes = jax.random.normal(jax.random.key(5), (6, 2), float)
    pushes = 0.3 * (pushes - pushes.mean(0, keepdims=True))
    steps = 200
    orders = np.random.default_rng(0).integers(0, 6, (len(KEYS), steps))
    real = lambda order: ia.iterate(
        rule, loss, problem.params, steps, batches=pushes, schedule=order, save_every=steps
    ).params[-1]
    sampled = lambda key: ia.carried_flow(
        rule, loss, problem.params, steps, batches=pushes, key=key, replacement=True, save_every=steps
    ).params[-1]
    truth, found = jax.jit(jax.vmap(real))(jnp.asarray(orders)), jax.jit(jax.vmap(sampled))(KEYS)
    spread = jnp.std(truth, axis=0)
    assert (jnp.abs(jnp.std(found, axis=0) / spread - 1) < 0.15).all()
    # Beside the sampling errors the step, 1e-2, and the tolerance of the solver are felt.
    apart = jnp.linalg.norm(jnp.mean(found, axis=0) - jnp.mean(truth, axis=0))
    assert apart < 2e-3 * jnp.linalg.norm(jnp.mean(truth, axis=0) - problem.params)


def test_what_has_no_sign_is_not_remembered_as_less_than_is_left():
    rule = ia.Adam(1e-2, 0.9, 0.99)
    carrier = carried_rule(rule, raveled_loss(parabola, jnp.zeros(1), SHIFTS))
    S = ((jnp.zeros(1),), (jnp.ones(1),))
    left = ((jnp.full(1, 5.0),), (jnp.full(1, 0.9),))
    psi, k = (jnp.zeros(1), jnp.ones(1)), jnp.asarray(3.0)
    for pushed in (-100.0, -0.5):
        more = carrier.bounded(S, psi, (jnp.full(1, pushed), jnp.full(1, pushed)), k, left)
        seen = jax.tree.map(jnp.add, psi, more)
        (m,), (v,) = carrier.ahead(S, seen, jax.tree.map(jnp.zeros_like, psi), k)
        # The gradient may be anything; its square is kept.
        np.testing.assert_allclose(m, (1 - 0.9**3) * pushed)
        np.testing.assert_allclose(v, max(0.9, 0.99**3 + (1 - 0.99**3) * (1 + pushed)))


def test_the_bound_is_what_is_left_of_the_first_steps():
    rule = ia.Adam(1e-2, 0.9, 0.99)
    carrier = carried_rule(rule, raveled_loss(parabola, jnp.zeros(1), SHIFTS))
    S = ((jnp.zeros(1),), (jnp.ones(1),))
    low = (jnp.full(1, -100.0),) * 2
    noise = remembering(carrier, Noise(None, lambda *_: low), 4, jnp.zeros(1), S)
    psi, k = (jnp.zeros(1), jnp.ones(1)), jnp.asarray(3.0)
    seen = jax.tree.map(jnp.add, psi, noise.of_leap(jnp.zeros(1), S, psi, jnp.asarray(6.0), k))
    v = carrier.ahead(S, seen, jax.tree.map(jnp.zeros_like, psi), k)[1][0]
    np.testing.assert_allclose(v, 0.99 ** (6 + 3 - 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": 0, "batches": SHIFTS}, "must be a key"),
        ({"key": KEYS[:2], "batches": SHIFTS}, "map over several"),
        ({"key": KEYS[0]}, "give two batches or more"),
        ({"key": KEYS[0], "batches": SHIFTS[:1]}, "give two batches or more"),
        ({"key": KEYS[0], "batches": SHIFTS, "order": 0}, "leave out order and solver"),
        ({"replacement": True, "batches": SHIFTS}, "give a key"),
        ({"key": KEYS[0], "batches": 5.0}, "must be a pytree of arrays"),
        ({"key": KEYS[0], "batches": SHIFTS, "noise": -0.5}, "noise must be"),
    ],
)
def test_what_cannot_be_sampled_is_refused(options, words):
    loss = parabola if "batches" in options else (lambda theta: parabola(theta, 0.0))
    with pytest.raises(ValueError, match=words):
        ia.carried_flow(ia.Adam(1e-2), loss, jnp.zeros(1), 20, **options)


def test_a_transformation_has_no_sampled_run():
    tx = ia.Optax(1e-2, ia.Adam(1.0).transformation())
    with pytest.raises(ValueError, match="for rules such as"):
        ia.carried_flow(tx, parabola, jnp.zeros(1), 20, batches=SHIFTS, key=KEYS[0])


def test_with_a_traced_noise_the_first_steps_are_whole_epochs_of_the_batches_given():
    seen = [checked_start(None, 100, 8, 0.5)]
    jax.eval_shape(lambda noise: seen.append(checked_start(None, 100, 8, noise)) or noise, jnp.asarray(0.5))
    assert seen == [round(3 * 4.5), 16]
