"""How well equations predict runs: the numbers against the runs themselves, and the verdicts that follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import digits
from implicit_adam.paper import practical_settings
from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.classifiers import CLASSIFIERS
from implicit_adam.paper.practical_cases import Case, PracticalConfig
from implicit_adam.paper.practical_settings import FEW, PRACTICAL_SETTINGS, more_pictures
from implicit_adam.studies.norm_rates import MEASURED, PREDICTED, norm_rates
from implicit_adam.studies.prediction import (
    CARRIED,
    CORRECTED,
    NEARBY,
    NUDGE,
    PLAIN,
    Prediction,
    predict,
    predict_batch_size,
)
from tests.verdicts import verdicts

RULE = ia.Adam(1e-3)


def vectors(params):
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(params)], axis=1)


def test_in_full_batch_it_is_the_distance_of_the_stored_runs():
    problem = digits(batches=1, samples=60)
    found = predict(RULE, problem, 60, 3, flows=True)
    twin = ia.iterate(RULE, problem.mean_loss, problem.params, 60, save_every=20).params
    flow = ia.carried_flow(RULE, problem.mean_loss, problem.params, 60, save_every=20)
    travelled = np.linalg.norm(vectors(twin) - vectors(twin)[:1], axis=1).max()
    distance = np.linalg.norm(vectors(flow.params) - vectors(twin), axis=1) / travelled
    np.testing.assert_allclose(found.error[CARRIED], distance, rtol=1e-9)
    np.testing.assert_allclose(found.loss, jax.vmap(problem.mean_loss)(twin), rtol=1e-12)
    predicted = jax.vmap(problem.mean_loss)(flow.params)
    np.testing.assert_allclose(found.predicted_loss[CARRIED], predicted, rtol=1e-12)
    assert set(found.error) == {CARRIED, PLAIN, CORRECTED, NEARBY}
    assert found.error[CARRIED].max() < 0.01 < found.error[PLAIN].max() < found.error[CORRECTED].max()
    apart = NUDGE * vectors(twin).shape[1] ** 0.5 / travelled
    np.testing.assert_allclose(found.error[NEARBY][0], apart, rtol=0.1)
    assert not found.sampling_error.any()
    assert found.gradients.tolist() == [60, int(flow.solver_steps)]
    assert [len(rates) for rates in found.norm_rate.values()] == [3, 3]


def test_in_mini_batches_it_is_the_mean_of_reshuffled_runs():
    problem = CLASSIFIERS["wine"](176, 4)
    found = predict(RULE, problem, 20, 2, runs=3)
    rng, ends = np.random.default_rng(0), []
    schedules = rng.permuted(np.tile(np.arange(4), (3, 5, 1)), axis=2).reshape(3, -1)
    for schedule in schedules:
        arguments = {"batches": problem.batches, "schedule": schedule, "save_every": 10}
        ends.append(ia.iterate(RULE, problem.loss, problem.params, 20, **arguments).params)
    mean = np.mean([vectors(end) for end in ends], axis=0)
    travelled = np.linalg.norm(mean - mean[:1], axis=1).max()
    spread = np.linalg.norm(np.std([vectors(end) for end in ends], axis=0, ddof=1), axis=1) / 3**0.5
    np.testing.assert_allclose(found.sampling_error, spread / travelled, rtol=1e-6, atol=1e-12)
    losses = np.mean([jax.vmap(problem.mean_loss)(end) for end in ends], axis=0)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-12)
    assert found.gradients[0] == 5
    assert set(found.error) == {CARRIED}
    assert found.norm_rate == {}


def test_from_single_samples_it_is_the_mean_of_runs_shuffled_anew_at_any_batch_size():
    problem = CLASSIFIERS["wine"](24, 24)
    found = predict_batch_size(RULE, problem, 5, 20, 2, 3)
    data = jax.tree.map(lambda x: x[:, 0], problem.batches)
    drawn = np.random.default_rng(0).permuted(np.tile(np.arange(24), (3, 5, 1)), axis=2)[..., :20]

    def mini_batch(params, rows):
        return jnp.mean(
            jax.vmap(lambda i: problem.loss(params, jax.tree.map(lambda x: x[i][None], data)))(rows)
        )

    ends = []
    for rows in drawn.reshape(3, 20, 5):
        arguments = {"batches": jnp.asarray(rows), "schedule": np.arange(20), "save_every": 10}
        ends.append(ia.iterate(RULE, mini_batch, problem.params, 20, **arguments).params)
    losses = np.mean([jax.vmap(problem.mean_loss)(end) for end in ends], axis=0)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-12)
    variance = (24 / 5 - 1) / 23
    flow = ia.carried_flow(RULE, problem.loss, problem.params, 20, batches=problem.batches, noise=variance,
                           save_every=10)  # fmt: skip
    mean = np.mean([vectors(end) for end in ends], axis=0)
    apart = np.linalg.norm(vectors(flow.params) - mean, axis=1)
    travelled = np.linalg.norm(mean - mean[:1], axis=1).max()
    np.testing.assert_allclose(found.error[CARRIED], apart / travelled, rtol=1e-9, atol=1e-12)
    assert found.gradients[0] == 20 * 5 / 24


def test_along_the_gradient_of_the_norm_the_rates_are_those_of_eq_4_and_of_the_carried_velocity():
    """On a quadratic the gradient of the norm is H g/(|g| + eps)."""
    eigenvalues = jnp.asarray([1.0, 2.0])
    loss = lambda x: jnp.sum(eigenvalues * x**2) / 2
    rule = ia.Adam(1e-3, eps=1e-2)
    run = ia.carried_flow(rule, loss, jnp.asarray([1.0, -0.5]), 60, save_every=20, memories=True)
    rates = norm_rates(rule, loss, run)
    field = ia.carried_field(rule, loss)
    for i, (t, x) in enumerate(zip(run.t[1:], run.params[1:], strict=True)):
        g = eigenvalues * x
        w = eigenvalues * g / (jnp.abs(g) + 1e-2)
        memories = jax.tree.map(lambda m, i=i: m[i + 1], run.memories)
        parts = field.decompose(t, (x, memories))
        changed = field(t, (x, memories))[0] - parts.instant - parts.minibatch - parts.decay
        np.testing.assert_allclose(rates[MEASURED][i], w @ changed, rtol=1e-9)
        predicted = -ia.bias(rule, loss, x) / (jnp.abs(g) + 1e-2)
        np.testing.assert_allclose(rates[PREDICTED][i], w @ predicted, rtol=1e-9)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_is_a_loss_of_its_start_near_that_of_guessing(name):
    problem = CLASSIFIERS[name](22, 2)
    losses = jax.vmap(problem.loss, (None, 0))(problem.params, problem.batches)
    classes = {"breast cancer": 2, "wine": 3}.get(name, 10)
    assert losses.shape == (2,)
    np.testing.assert_allclose(jnp.mean(losses), np.log(classes), atol=0.6)


FULL, MINI = Case("CNN", flows=True), Case("wine", samples=40, batches=4, runs=4)
DRAWN = Case("wine", samples=40, size=10, runs=4)
CONFIG = PracticalConfig((FULL, MINI, DRAWN))


def made_up(
    error=0.001, loss=0.001, plain=1.0, corrected=np.inf, nearby=1e-5, gradients=5, sampling=0.0, signs=None
):
    ones = np.ones(3)
    errors = {CARRIED: error, PLAIN: plain, CORRECTED: corrected, NEARBY: nearby}
    return Prediction(
        steps=10 * np.arange(3),
        loss=ones,
        predicted_loss={CARRIED: ones + loss, NEARBY: ones + nearby},
        error={name: value * ones for name, value in errors.items()},
        sampling_error=sampling * ones,
        gradients=np.array([20, gradients]),
        norm_rate={} if signs is None else {MEASURED: np.array([1.0, 2.0]), PREDICTED: np.array(signs)},
    )


GOOD, GOOD_MINI = made_up(signs=(1, 1)), made_up(sampling=0.001)


@pytest.mark.parametrize(
    ("full", "mini", "drawn", "others"),
    [
        (GOOD, GOOD_MINI, GOOD_MINI, {}),
        (made_up(error=0.011, signs=(1, 1)), GOOD_MINI, GOOD_MINI, {0: DID_NOT_HOLD}),
        (made_up(error=0.011, loss=0.1, nearby=0.01, signs=(1, 1)), GOOD_MINI, GOOD_MINI, {}),
        (made_up(loss=-0.011, signs=(1, 1)), GOOD_MINI, GOOD_MINI, {1: DID_NOT_HOLD}),
        (made_up(plain=0.05, signs=(1, 1)), GOOD_MINI, GOOD_MINI, {2: UNDECIDED}),
        (made_up(plain=0.005, signs=(1, 1)), GOOD_MINI, GOOD_MINI, {2: DID_NOT_HOLD}),
        (made_up(gradients=20, signs=(1, 1)), GOOD_MINI, GOOD_MINI, {3: DID_NOT_HOLD}),
        (made_up(signs=(1, -1)), GOOD_MINI, GOOD_MINI, {4: UNDECIDED}),
        (made_up(signs=(np.nan, -1)), GOOD_MINI, GOOD_MINI, {4: DID_NOT_HOLD}),
        (GOOD, made_up(error=0.0021, sampling=0.001), GOOD_MINI, {5: DID_NOT_HOLD}),
        (GOOD, GOOD_MINI, made_up(error=0.0021, sampling=0.001), {6: DID_NOT_HOLD}),
        (GOOD, made_up(sampling=0.001, loss=0.019), GOOD_MINI, {}),
        (GOOD, GOOD_MINI, made_up(sampling=0.001, loss=0.021), {7: DID_NOT_HOLD}),
        (
            made_up(error=np.nan, loss=np.nan, signs=(1, 1)),
            GOOD_MINI,
            GOOD_MINI,
            {0: UNDECIDED, 1: UNDECIDED},
        ),
    ],
)
def test_verdicts_follow_the_numbers(full, mini, drawn, others):
    expected = [others.get(i, HELD) for i in range(8)]
    assert verdicts(PRACTICAL_SETTINGS, (full, mini, drawn), CONFIG) == expected


def test_a_few_cases_have_a_picture_of_their_own():
    pictures = more_pictures(PracticalConfig((MINI, FEW[-1])), (GOOD, GOOD_MINI))
    assert [len(picture.axes) for picture in pictures.values()] == [2]
    assert list(pictures) == ["few"]
    assert more_pictures(CONFIG, (GOOD, GOOD_MINI, GOOD_MINI)) == {}


def test_what_has_parted_from_a_nearby_start_is_not_judged_when_they_meet_again():
    errors = {PLAIN: np.ones(3), CORRECTED: np.ones(3)}
    config = PracticalConfig((FULL,))

    def verdict(error, nearby):
        found = made_up()._replace(error=errors | {CARRIED: np.array(error), NEARBY: np.array(nearby)})
        return PRACTICAL_SETTINGS.claims(config, (found,))[0]

    met_again = verdict([0.001, 0.3, 0.4], [0.001, 0.02, 0.001])
    assert met_again.verdict == HELD
    assert "0.10% until a nearby start parts, then 40.00%" in met_again.measured
    assert verdict([0.02, 0.3, 0.4], [0.001, 0.02, 0.001]).verdict == DID_NOT_HOLD


def test_no_cases_decide_nothing():
    verdict_of = lambda *cases: verdicts(
        PRACTICAL_SETTINGS, tuple(made_up() for _ in cases), PracticalConfig(cases)
    )
    assert verdict_of() == [UNDECIDED] * 8
    assert verdict_of(Case("CNN")) == [HELD, HELD, UNDECIDED, HELD, *[UNDECIDED] * 4]


def test_batches_of_sixteen_are_held_to_one_percent():
    config = PracticalConfig((FULL, Case("wine", samples=64, batches=4, runs=4)))
    found = (made_up(), made_up(sampling=0.001, loss=0.019))
    assert verdicts(PRACTICAL_SETTINGS, found, config)[-1] == DID_NOT_HOLD


def test_a_small_run_is_drawn_case_by_case():
    config = PracticalConfig((Case("breast cancer", steps=20, samples=56), MINI), saves=2)
    shares = []
    found = practical_settings.run(config, shares.append)
    assert shares == [0.5, 1.0]
    titles = [ax.get_title() for ax in practical_settings.picture(config, found).axes]
    assert "Adam, $h$ = 0.001, batches of 10\nwine" in titles
